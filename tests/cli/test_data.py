"""`data` prepares and verifies the data of a suite."""


def test_data_that_ship_with_a_package_are_ready_and_intact(gim_bench):
    assert gim_bench("data", "prepare", "--suite", "quickstart").out == (
        "the data of suite 'quickstart' is ready\n"
    )
    assert gim_bench("data", "verify", "--suite", "quickstart").out == (
        "the data of suite 'quickstart' is intact\n"
    )
