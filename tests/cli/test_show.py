"""`show` prints the settings of rows, and where each comes from."""


def test_shared_settings_come_first_and_those_of_a_row_below_its_name(gim_bench):
    answer = gim_bench("show", "--suite", "quickstart", "--method", "gim", "--method", "cpc")
    assert answer.code == 0, answer.err
    shared, gim, cpc = answer.out.split("\n\n")
    assert shared.startswith("# all rows\n")
    assert "training.batch_size = 16" in shared
    assert [part.splitlines()[0] for part in (gim, cpc)] == ["# gim", "# cpc"]
    (line,) = [each for each in cpc.splitlines() if "autoregressor_layers" in each]
    assert line.endswith("# quickstart.toml [method.cpc]")


def test_defaults_are_left_out_if_asked(gim_bench):
    arguments = ("show", "--suite", "quickstart", "--method", "gim")
    everything, stated = gim_bench(*arguments).out, gim_bench(*arguments, "--stated").out
    assert "# default" in everything
    assert "# default" not in stated
    assert "training.epochs = 5" in stated


def test_a_changed_setting_says_so(gim_bench):
    answer = gim_bench("show", "--suite", "quickstart", "--set", "training.epochs=9")
    (line,) = [each for each in answer.out.splitlines() if each.startswith("training.epochs")]
    assert line.startswith("training.epochs = 9 ")
    assert line.endswith("# --set")


def test_an_unknown_suite_is_one_line(gim_bench):
    answer = gim_bench("show", "--suite", "quickstrat")
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert "quickstart" in line


def test_the_suite_may_stand_without_its_option(gim_bench):
    assert gim_bench("show", "smoke").out == gim_bench("show", "--suite", "smoke").out


def test_no_suite_and_two_suites_are_one_line(gim_bench):
    none, both = gim_bench("show"), gim_bench("show", "smoke", "--suite", "memory")
    assert (none.code, none.err.count("\n")) == (2, 1)
    assert "show quickstart" in none.err
    assert (both.code, both.err.count("\n")) == (2, 1)
    assert "name one" in both.err


def test_evidence_that_is_not_there_is_one_line_as_in_a_plan(gim_bench):
    shown, planned = (
        gim_bench(*command, "--suite", "quickstart", "--set", "tuned=notthere")
        for command in (("show",), ("run", "--plan"))
    )
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert "notthere" in shown.err
    assert shown.err == planned.err.splitlines(keepends=True)[-1]
