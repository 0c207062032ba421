"""`run` runs the missing cells of a suite and prints its table."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.commands import PLAIN, RUN, records, statuses
from tests.forked import forked_workers


def test_a_run_prints_its_table_and_where_its_records_are(finished, tmp_path):
    assert re.search(r"^\| *gim\b", finished.out, re.MULTILINE)
    assert re.search(r"^\| *random_init\b", finished.out, re.MULTILINE)
    assert "for the tests alone" in finished.out  # the protocol
    assert "Records: runs/tiny" in finished.out
    assert "MLflow" not in finished.out
    assert statuses(tmp_path) == {("gim", 0): "done", ("random_init", 0): "done"}


def test_progress_goes_to_standard_error_in_plain_lines(finished):
    assert "gim seed 0: training: 2 steps in " in finished.err
    assert "gim seed 0: train features: 32 images in " in finished.err
    assert "\x1b" not in finished.err


def test_a_quiet_run_shows_its_table_and_no_progress(gim_bench):
    answer = gim_bench(*PLAIN, "--method", "random_init", "--quiet")
    assert re.search(r"^\| *random_init\b", answer.out, re.MULTILINE)
    assert answer.err == ""


def test_without_tracking_nothing_of_mlflow_is_left(finished, tmp_path):
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.toml", "runs"}


def test_json_is_the_documented_list_of_cells_and_nothing_else(gim_bench):
    answer = gim_bench(*PLAIN, "--json")
    cells = json.loads(answer.out)
    assert [cell["method"] for cell in cells] == ["gim", "random_init"]
    for cell in cells:
        assert set(cell) == {
            "suite", "method", "dataset", "seed", "key", "status", "error", "fits", "metrics",
            "config", "provenance", "isolation", "protocol", "losses", "inside", "probe_curves",
            "files", "sweeps",
        }  # fmt: skip
        assert (cell["suite"], cell["dataset"], cell["seed"]) == ("tiny", "photos", 0)
        assert (cell["status"], cell["error"], cell["fits"]) == ("done", None, True)
        assert all(isinstance(value, (int, float)) for value in cell["metrics"].values())
        assert {"accuracy", "accuracy/module_1"} <= set(cell["metrics"])
        assert len(cell["provenance"]["data_sha256"]) == 64


def test_only_the_methods_named_are_run(gim_bench, tmp_path):
    gim_bench(*PLAIN, "--method", "supervised", "--method", "random_init")
    assert set(statuses(tmp_path)) == {("supervised", 0), ("random_init", 0)}


def test_a_suite_of_speech_is_run_and_reported_by_target(gim_bench, speech, tmp_path):
    command = ("run", "--suite", speech, "--no-tracking", "--method", "supervised")
    answer = gim_bench(*command, "--method", "gim")
    assert answer.code == 0, answer.err
    assert "phone, linear probe" in answer.out
    assert "## Accuracy by module: speaker, linear probe, %" in answer.out
    assert "supervised seed 0, speaker: training: 2 steps in " in answer.err
    assert "supervised seed 0, phone: training: 2 steps in " in answer.err
    assert "gim seed 0: train features: 15 windows in " in answer.err
    again = gim_bench(*command)
    assert again.err == "1 of 1 cells are done already (--rerun runs them again)\n"
    rows = gim_bench("report", "--suite", speech, "--format", "csv").out
    assert "speaker_accuracy/module_6" in rows


# -- which cells are run ---------------------------------------------------------------------------


def test_a_second_run_says_that_all_cells_are_done_and_runs_nothing(finished, gim_bench, tmp_path):
    before = records(tmp_path)
    again = gim_bench(*PLAIN)
    assert again.code == 0
    assert again.err == "2 of 2 cells are done already (--rerun runs them again)\n"
    assert again.out == finished.out
    assert records(tmp_path) == before


def test_only_missing_cells_are_run(finished, gim_bench, tmp_path):
    answer = gim_bench(*PLAIN, "--seeds", "2")
    assert "2 of 4 cells are done already" in answer.err
    assert "gim seed 1: training" in answer.err
    assert "gim seed 0: training" not in answer.err
    assert len(records(tmp_path)) == 4


def test_rerun_runs_finished_cells_again_and_gets_the_same_losses(finished, gim_bench, tmp_path):
    before = records(tmp_path)
    answer = gim_bench(*PLAIN, "--rerun", "--method", "gim")
    assert "done already" not in answer.err
    assert "gim seed 0: training" in answer.err
    after = records(tmp_path)
    assert after != before
    assert [r["losses"] for r in after] == [r["losses"] for r in before]


def test_another_setting_is_another_cell(finished, gim_bench, tmp_path):
    answer = gim_bench(*PLAIN, "--method", "gim", "--set", "training.learning_rate=2e-3")
    assert answer.code == 0
    assert "done already" not in answer.err
    assert len(records(tmp_path)) == 3


def test_a_cell_whose_record_is_half_written_is_run_again(finished, gim_bench, tmp_path):
    (path,) = tmp_path.glob("runs/tiny/gim/*/record.json")
    path.write_text(path.read_text()[:100])
    answer = gim_bench(*PLAIN)
    assert "1 of 2 cells are done already" in answer.err
    assert statuses(tmp_path)["gim", 0] == "done"


# -- --plan and --why ------------------------------------------------------------------------------


def test_a_plan_has_a_line_for_each_cell_and_trains_nothing(gim_bench, tmp_path):
    answer = gim_bench(*RUN, "--plan", "--seeds", "2")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r"gim seed 0 +2 steps  about \d.*s +peak \d+\.\d GiB", lines[0])
    assert re.fullmatch(r"random_init seed 0 +0 steps  about \d.*", lines[1])
    assert re.fullmatch(r"gim seed 1 +2 steps  .*", lines[2])
    assert re.fullmatch(
        r"4 of 4 cells would run, about .* on cpu, by 1 worker of 1 thread", lines[-1]
    )
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.toml"}


def test_a_plan_says_which_cells_are_done(finished, gim_bench, tmp_path):
    before = records(tmp_path)
    lines = gim_bench(*RUN, "--plan").out.splitlines()
    assert [line.split()[-1] for line in lines[:2]] == ["done", "done"]
    assert lines[-1].startswith("0 of 2 cells would run, about 0.0 s")
    assert records(tmp_path) == before


def test_a_plan_says_how_many_damaged_records_it_leaves_out(finished, gim_bench):
    damaged = Path("runs/tiny/gim/seed-7-01234567/record.json")
    damaged.parent.mkdir()
    damaged.write_text("{")
    (line,) = gim_bench(*RUN, "--plan").err.splitlines()
    assert line.startswith("left out: 1 record(s) that were altered, cut off, moved or written by")
    assert line.endswith(
        f"such as {damaged}; run replaces the records of its settings; move copies out of the "
        f"folder or remove them"
    )


def test_why_says_of_every_cell_why_it_would_run_or_not_and_runs_none(finished, gim_bench):
    answer = gim_bench(*PLAIN, "--why", "--set", "training.epochs=2", "--seeds", "2")
    assert (answer.code, answer.err) == (0, "")
    assert [" ".join(line.split()) for line in answer.out.splitlines()] == [
        "gim seed 0 runs: training.epochs is 2, was 1",
        "random_init seed 0 runs: training.epochs is 2, was 1",
        "gim seed 1 runs: it has no record yet",
        "random_init seed 1 runs: it has no record yet",
    ]
    assert "done: nothing has changed since" in gim_bench(*PLAIN, "--why").out
    assert "runs: --rerun (it finished" in gim_bench(*PLAIN, "--why", "--rerun").out


@pytest.mark.parametrize("option", ["--plan", "--why"])
def test_records_of_a_command_that_runs_nothing_are_refused(option, gim_bench):
    answer = gim_bench(*PLAIN, option, "--json")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        f"error: {option} runs nothing, and --json prints records of what ran: leave one of them "
        f"out; report --format json prints the records that are there\n"
    )


# -- on top of a finished cell ---------------------------------------------------------------------


def test_a_module_is_added_to_a_finished_cell_by_its_folder(finished, gim_bench, tmp_path):
    (folder,) = tmp_path.glob("runs/tiny/gim/seed-*")
    answer = gim_bench(*PLAIN, "--set", "encoder.blocks=[1,1,1]", "--from", str(folder), "--json")
    (record,) = json.loads(answer.out)
    assert (answer.code, record["method"]) == (0, f"gim_on_gim_{folder.name.rpartition('-')[2]}")
    assert "accuracy/module_3" in record["metrics"]


def test_a_base_without_a_module_to_add_is_refused_before_anything_runs(
    finished, gim_bench, tmp_path
):
    (folder,) = tmp_path.glob("runs/tiny/gim/seed-*")
    answer = gim_bench(*PLAIN, "--from", str(folder))
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith(f"error: --from {folder}: it has all 2 modules")


def test_seeds_cannot_be_chosen_on_top_of_a_finished_cell(finished, gim_bench, tmp_path):
    (folder,) = tmp_path.glob("runs/tiny/gim/seed-*")
    answer = gim_bench(*PLAIN, "--from", str(folder), "--seeds", "2")
    assert (answer.code, answer.err) == (
        2,
        f"error: --from {folder} is of seed 0: leave out --seeds\n",
    )


# -- workers ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_workers_print_the_table_and_keep_a_log_each(finished, gim_bench, tmp_path):
    with forked_workers():
        answer = gim_bench(*PLAIN, "--workers", "2", "--runs-dir", "other")
    assert answer.code == 0, answer.err
    assert accuracies(answer.out) == accuracies(finished.out)
    folder = Path("other/tiny/workers")
    assert f"2 workers of 1 thread, whose logs are in {folder}" in answer.err
    logs = [(tmp_path / folder / f"{number}.log").read_text() for number in (1, 2)]
    for cell in ("gim seed 0", "random_init seed 0"):
        ending = f"{cell}: probes: 2 probes in"
        assert sum(ending in log for log in logs) == 1
        assert ending in answer.err


def accuracies(table):
    return table.partition("## Accuracy by module")[2].partition("##")[0]


def test_a_plan_says_how_the_cores_are_shared(gim_bench):
    answer = gim_bench(*PLAIN, "--workers", "2", "--plan")
    assert answer.out.splitlines()[-1].endswith("on cpu, by 2 workers of 1 thread")


def test_cells_that_are_measured_alone_take_no_workers(gim_bench):
    answer = gim_bench("run", "--suite", "memory", "--no-tracking", "--workers", "2")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "error: 2 workers (--workers or GIM_BENCH_WORKERS) for suite 'memory', which measures one "
        "cell at a time: use --workers 1\n"
    )


@pytest.mark.parametrize("apart", [False, True])
def test_only_a_process_that_cells_share_keeps_freed_blocks(gim_bench, monkeypatch, apart):
    """It saves page faults; a process of one cell is there to measure its memory."""
    kept = []
    monkeypatch.setattr("gim_bench.hardware.memory.keep_freed_blocks", lambda: kept.append(1))
    given = ["--method", "random_init", "--set", f"fresh_process={str(apart).lower()}"]
    assert gim_bench(*PLAIN, *given, "--workers", "1").code == 0
    assert bool(kept) is not apart


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--devices", "cpu,cpu"], "no cell is one: leave it out"),
        (["--devices", "cuda:0,cuda:1"], "no device 'cuda:0' (--devices): PyTorch sees 0 GPU(s)"),
        (["--devices", "cpu", "--device", "cuda"], "--devices cpu --device cuda has CPUs and GPUs"),
        (["--devices", "cpu,cpu", "--launcher", "slurm"], "--launcher slurm has cells run on"),
    ],
)
def test_devices_that_no_worker_can_have_get_one_line(options, said, gim_bench, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    answer = gim_bench(*PLAIN, *options)
    assert answer.code == 2
    assert said in answer.err.splitlines()[-1]
