"""`run --memory-limit`: limits that cannot be kept are refused before anything runs."""

from tests.cli.commands import PLAIN, statuses


def test_a_limit_below_the_idle_process_is_one_line_and_nothing_runs(gim_bench, tmp_path):
    answer = gim_bench(*PLAIN, "--set", "fresh_process=true", "--memory-limit", "0.01")
    assert answer.code == 2
    (line,) = answer.err.splitlines()
    assert line.startswith("error: a memory limit of 0.01 GB (--memory-limit) is below the ")
    assert line.endswith(" GB that a process holds before it works: raise it")
    assert not statuses(tmp_path)


def test_a_limit_is_for_cells_in_processes_of_their_own(gim_bench, tmp_path):
    answer = gim_bench(*PLAIN, "--memory-limit", "100")
    assert answer.code == 2
    assert "leave it out, or --set fresh_process=true" in answer.err
    assert not statuses(tmp_path)
