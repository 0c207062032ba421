"""`sweep` tunes probes on finished cells, or the training of whole cells."""

import json
import re
import sqlite3
from contextlib import closing

import pytest

from gim_bench.errors import TrackingError
from gim_bench.report.published import results_folder
from gim_bench.tracking import Tracker
from tests.cli.commands import PLAIN, REPORT, SWEEP, records

# MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def test_a_sweep_prints_its_table_and_the_report_shows_it(finished, gim_bench, tmp_path):
    answer = gim_bench(*SWEEP, "--no-tracking")
    assert answer.code == 0, answer.err
    assert re.search(r"^\| gim +\| +0 \| module_2 +\| +12 \|", answer.out, re.MULTILINE)
    assert (tmp_path / "runs/tiny/sweep.db").exists()
    report = gim_bench(*REPORT)
    assert answer.out[answer.out.index("| gim") :] in report.out
    assert "## Linear probe: the best learning rate" in report.out


def test_probes_are_swept_with_the_threads_of_a_run(finished, gim_bench, monkeypatch):
    """Small cells take one thread, and none takes more than the CPU quota."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asked = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    assert gim_bench(*SWEEP, "--no-tracking").code == 0
    assert asked == [1]


def test_a_report_without_sweeps_or_of_chosen_metrics_has_no_such_section(finished, gim_bench):
    assert "the best learning rate" not in gim_bench(*REPORT).out
    gim_bench(*SWEEP, "--no-tracking")
    assert "the best learning rate" not in gim_bench(*REPORT, "--metric", "accuracy").out


def test_a_sweep_as_json_holds_the_whole_curves(finished, gim_bench, tmp_path):
    answer = gim_bench(*SWEEP, "--no-tracking", "--json", "--modules", "all")
    found = json.loads(answer.out)
    assert [(o["method"], o["seed"], o["probe"]) for o in found] == [
        ("gim", 0, "module_1"),
        ("gim", 0, "module_2"),
    ]
    for one in found:
        assert len(one["curve"]) == one["trials"] == 12
        assert {"best", "paper", "key", "decades_within_one_point"} <= set(one)


def test_a_sweep_is_mirrored_with_a_run_for_each_trial(finished, gim_bench, tmp_path, store):
    assert gim_bench(*SWEEP, *store).code == 0
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        kinds = database.execute("SELECT value, COUNT(*) FROM tags WHERE key='kind' GROUP BY value")
        assert dict(kinds) == {"sweep": 1, "probe_trial": 12}


def test_a_sweep_goes_on_when_the_tracking_store_goes_away(finished, gim_bench, monkeypatch):
    asked = []

    def away(self, record, **_):
        asked.append(record.method)
        raise TrackingError("gone")

    monkeypatch.setattr(Tracker, "mirror_sweeps", away)
    answer = gim_bench("sweep", "--suite", "./tiny.toml", "--trials", "12")
    assert answer.code == 0
    assert answer.err.count("not mirrored: gone") == 1
    assert asked == ["gim"]


def test_a_sweep_of_cells_that_are_not_finished_names_them_and_the_command(gim_bench):
    answer = gim_bench("sweep", "--suite", "./tiny.toml", "--no-tracking")
    assert answer.code == 2
    assert answer.err.startswith("error: not finished with these settings: gim seed 0, random_init")
    assert "python -m gim_bench run --suite ./tiny.toml" in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize("space", [(), ("--space", "training.epochs=1..2")])
def test_a_sweep_of_a_suite_without_probes_is_refused(space, gim_bench):
    answer = gim_bench("sweep", "--suite", "memory", "--no-tracking", *space)
    assert answer.code == 2
    assert "has no [probe]" in answer.err


def test_an_interrupted_sweep_says_how_to_go_on(finished, gim_bench, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("gim_bench.sweep.sweep_cell", interrupted)
    answer = gim_bench(*SWEEP, "--no-tracking")
    assert answer.code == 130
    assert "the same command resumes" in answer.err


# -- of training -----------------------------------------------------------------------------------


SPACE = (
    *("sweep", "--suite", "./tiny.toml", "--method", "gim", "--trials", "2"),
    *("--space", "training.learning_rate=1e-4..1e-2", "--space", "training.epochs=1,2"),
)


def test_a_sweep_of_training_prints_its_trials_and_what_runs_the_best(gim_bench, tmp_path):
    answer = gim_bench(*SPACE, "--no-tracking")
    assert answer.code == 0, answer.err
    assert re.search(r"^\| +1 \| +1 \| +0.001 \| +[0-9.]+ \| complete", answer.out, re.MULTILINE)
    ((options, best),) = re.findall(r"^- best: .* %, ((--set \S+ ?)+)$", answer.out, re.MULTILINE)
    assert best
    before = records(tmp_path)
    assert len(before) == 2
    again = gim_bench(*PLAIN, "--method", "gim", *options.split())
    assert "1 of 1 cells are done already" in again.err
    assert records(tmp_path) == before


def test_a_sweep_of_training_as_json_has_an_object_for_each_method_and_seed(gim_bench):
    options = ("--method", "supervised", "--seeds", "2", "--no-tracking", "--json")
    found = json.loads(gim_bench(*SPACE, *options).out)
    assert [(one["method"], one["seed"]) for one in found] == [
        *(("gim", 0), ("supervised", 0)),
        *(("gim", 1), ("supervised", 1)),
    ]
    assert all(len(one["trials"]) == 2 for one in found)


EVIDENCE = (
    "sweep",
    "--suite",
    "./tiny.toml",
    "--seeds",
    "2",
    "--no-tracking",
    "--evidence",
    "e.json",
)


def test_evidence_names_the_best_rate_of_every_trained_row(gim_bench, tmp_path):
    """One command for all rows; those that nothing is trained in are left out."""
    answer = gim_bench(*EVIDENCE, "--space", "training.learning_rate=1e-3,1e-2")
    assert answer.code == 0, answer.err
    assert "## gim, mean over 2 seeds" in answer.out
    found = json.loads((tmp_path / "e.json").read_text())
    assert list(found["methods"]) == ["gim"]
    row = found["methods"]["gim"]
    assert [tried["learning_rate"] for tried in row["tried"]] == [1e-3, 1e-2]
    assert all(set(tried["validation_accuracy"]) == {"0", "1"} for tried in row["tried"])
    assert row["learning_rate"] in {1e-3, 1e-2}
    assert (found["trials"], found["seeds"]) == (2, [0, 1])


RATES = ("--space", "training.learning_rate=1e-3,1e-2")


def test_evidence_that_would_lose_rows_of_its_file_is_refused_before_the_sweep(gim_bench, tmp_path):
    """All rows were swept once, and now one of them is."""
    there = (results_folder("tuned") / "quickstart.json").read_text()
    (tmp_path / "e.json").write_text(there)
    answer = gim_bench(*EVIDENCE, *RATES, "--method", "gim")
    assert answer.code == 2
    assert "--evidence e.json has rows that this command does not sweep" in answer.err
    assert "cpc, supervised" in answer.err
    assert (tmp_path / "e.json").read_text() == there
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("file", "reason"),
    [("folder", "Is a directory"), ("tiny.toml/e.json", "exists"), ("tiny.toml", "is no evidence")],
)
def test_evidence_that_cannot_be_written_is_refused_before_the_sweep(
    file, reason, gim_bench, tmp_path
):
    (tmp_path / "folder").mkdir()
    answer = gim_bench(*EVIDENCE[:-1], file, *RATES)
    assert answer.code == 2
    assert f"--evidence {file}" in answer.err
    assert reason in answer.err
    assert "name another file" in answer.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_workers_find_the_evidence_of_one_process(gim_bench, tmp_path):
    space = ("--space", "training.learning_rate=1e-3,1e-2")
    store = tmp_path / "mlflow.db"
    tracked = [*EVIDENCE[:5], *EVIDENCE[6:], "--tracking-uri", f"sqlite:///{store}"]
    answer = gim_bench(*tracked, *space, "--workers", "2")
    assert answer.code == 0, answer.err
    assert "2 workers of " in answer.err
    with closing(sqlite3.connect(store)) as database:
        assert database.execute("SELECT COUNT(*) FROM tags WHERE value='cell'").fetchone() == (4,)
    there = json.loads((tmp_path / "e.json").read_text())
    assert gim_bench(*EVIDENCE, *space, "--runs-dir", "alone/runs").code == 0
    assert json.loads((tmp_path / "e.json").read_text())["methods"] == there["methods"]
    assert len(records(tmp_path / "alone")) == 4
    assert [record["provenance"].get("workers") for record in records(tmp_path)] == [2] * 4


def test_a_sweep_of_probes_says_that_it_takes_no_workers(finished, gim_bench):
    answer = gim_bench(*SWEEP, "--workers", "2", "--no-tracking")
    assert answer.code == 0, answer.err
    assert "2 workers (--workers or GIM_BENCH_WORKERS) are for --space" in answer.err


def test_trials_that_run_in_processes_of_their_own_have_no_workers(gim_bench, tmp_path):
    space = ("--space", "training.schedule=interleaved,pipeline")
    options = ("sweep", "--suite", "./tiny.toml", "--method", "gim", *space, "--no-tracking")
    answer = gim_bench(*options, "--workers", "2")
    assert answer.code == 2
    assert "for cells that have processes of their own" in answer.err
    assert not records(tmp_path)


@pytest.mark.parametrize(
    "space", [["training.learning_rate=1e-4..1e-2"], ["training.epochs=1,2"], []]
)
def test_evidence_of_anything_but_a_list_of_rates_is_refused_before_the_sweep(
    space, gim_bench, tmp_path
):
    answer = gim_bench(*EVIDENCE, *(part for text in space for part in ("--space", text)))
    assert answer.code == 2
    assert "--space training.learning_rate=1e-3,3e-3,1e-2" in answer.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("earlier", [[], ["--no-tracking"]])
def test_a_sweep_of_training_mirrors_its_cells_as_a_run_does(earlier, gim_bench, tmp_path, store):
    """Those too that were tried before, by a process that did not come to mirror them."""
    if earlier:
        assert gim_bench(*SPACE, *earlier).code == 0
    assert gim_bench(*SPACE, *store).code == 0
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        kinds = database.execute("SELECT value, COUNT(*) FROM tags WHERE key='kind' GROUP BY value")
        assert dict(kinds) == {"cell": 2}


def test_a_sweep_of_training_without_a_completed_trial_is_exit_code_1(gim_bench, misbehaving):
    space = ("--trials", "1", "--space", "training.learning_rate=1e-4..1e-2")
    named = ("--method", "broken", "--method", "gim")
    answer = gim_bench("sweep", "--suite", "./tiny.toml", *named, *space, "--no-tracking")
    assert "best: no trial was completed" in answer.out
    assert answer.code == 1
    assert answer.err.endswith("error: no trial was completed: broken seed 0\n")


def test_a_sweep_of_training_with_options_for_probes_is_refused(gim_bench):
    for option in (("--weight-decay",), ("--modules", "all"), ("--modules", "top")):
        answer = gim_bench(*SPACE, *option, "--no-tracking")
        assert answer.code == 2
        assert "are for probes" in answer.err


def test_a_sweep_of_training_says_what_is_wrong_with_its_space_before_it_runs(gim_bench, tmp_path):
    answer = gim_bench(*SPACE, "--space", "training.batch_size=32,40", "--no-tracking")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    named = ("--method", "random_init")
    answer = gim_bench("sweep", "--suite", "./tiny.toml", *named, *SPACE[-2:], "--no-tracking")
    assert "random_init trains nothing" in answer.err
