"""The command `probe`."""

PROBE = ("probe", "--suite", "./tiny.toml", "--protocol", "top", "--protocol", "knn")


def test_probe_prints_methods_by_protocols(finished, gim_bench):
    answer = gim_bench(*PROBE)
    assert answer.code == 0, answer.err
    header, _, *rows = [line for line in answer.out.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "method", "seeds", "own", "top", "knn",
    ]  # fmt: skip
    for row in rows:
        method, _, own, top, _ = [cell.strip() for cell in row.split("|")[1:-1]]
        assert own == top, method
    assert "Under `top` the order of 2 methods" in answer.out


def test_the_report_shows_the_protocols_that_were_read(finished, gim_bench):
    assert "## Protocols" not in gim_bench("report", "--suite", "./tiny.toml").out
    gim_bench(*PROBE)
    assert "## Protocols" in gim_bench("report", "--suite", "./tiny.toml").out


def test_a_report_leaves_out_what_was_read_with_other_settings(finished, gim_bench):
    gim_bench(*PROBE)
    other = ("--suite", "./tiny.toml", "--set", "protocols.knn.probe.neighbours=7")
    out = gim_bench("report", *other).out
    assert "left out: 2 result(s) of `knn`" in out
    assert f"`python -m gim_bench probe {' '.join(other)} --protocol knn --seeds 1`" in out
    assert "left out" not in gim_bench("probe", *other, "--protocol", "knn").out


def test_an_unknown_protocol_is_one_line_with_those_there_are(gim_bench):
    answer = gim_bench("probe", "--suite", "./tiny.toml", "--protocol", "kn")
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert "no protocol 'kn' (--protocol)" in line
    assert "all_modules, block_head, clapp, deep_infomax, knn, top" in line


def test_a_cell_that_is_not_finished_is_named(finished, gim_bench):
    answer = gim_bench(*PROBE, "--seeds", "2")
    assert answer.code == 1
    left_out = [line for line in answer.err.splitlines() if line.startswith("left out")]
    assert left_out == [
        f"left out: {method} seed 1: not finished with these settings"
        for method in ("gim", "random_init")
    ]
    assert "| gim " in answer.out


def test_without_a_finished_cell_the_line_says_what_to_run(gim_bench):
    answer = gim_bench(*PROBE)
    assert answer.code == 2
    assert "first python -m gim_bench run --suite ./tiny.toml" in answer.err
