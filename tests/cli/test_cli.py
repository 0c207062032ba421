"""What users type, and what they get: tables on standard output, all else on standard error."""

import csv
import errno
import io
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from gim_bench import registry
from gim_bench.cells.run import run_cell
from gim_bench.cli.main import main
from gim_bench.errors import TrackingError
from gim_bench.records import provenance
from gim_bench.records.folder import RunsFolder
from gim_bench.records.sealed import read_record
from gim_bench.settings.suites import shipped_suites
from gim_bench.tracking.client import Tracker
from tests.alarms import LIMIT_SECONDS, over_once
from tests.check.cells import COMMITTED
from tests.servers import Server, names
from tests.tiny_suite import MISBEHAVING, SPEECH_TOML, TOML, noise_registered

# MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

RUN = ("run", "--suite", "./tiny.toml")
PLAIN = (*RUN, "--no-tracking")
REPORT = ("report", "--suite", "./tiny.toml")


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def gim_bench(tmp_path, monkeypatch, capsys):
    """Runs the command line in a folder of its own, which holds tiny.toml."""
    (tmp_path / "tiny.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIM_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # tiny cells are for the CPU

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["gim_bench", *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capsys.readouterr()
        return Answer(ending.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def misbehaving(monkeypatch):
    """Registers methods that fail."""
    table = {**registry.methods(), **MISBEHAVING}
    monkeypatch.setattr(registry, "methods", lambda: table)


@pytest.fixture
def speech(tmp_path):
    """speech.toml beside tiny.toml, on noise for speech."""
    (tmp_path / "speech.toml").write_text(SPEECH_TOML)
    with noise_registered():
        yield "./speech.toml"


@pytest.fixture
def finished(gim_bench):
    """The suite, run."""
    answer = gim_bench(*PLAIN)
    assert answer.code == 0, answer.err
    return answer


def records(folder):
    paths = sorted(folder.glob("runs/*/*/seed-*/record.json"))
    return [json.loads(path.read_text()) for path in paths]


def statuses(folder):
    return {(r["method"], r["seed"]): r["status"] for r in records(folder)}


# -- run -------------------------------------------------------------------------------------------


def test_a_run_prints_its_table_and_where_everything_is(finished, tmp_path):
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


def test_without_tracking_nothing_of_mlflow_is_left(finished, tmp_path):
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.toml", "runs"}


def test_a_second_run_says_that_all_is_done_and_runs_nothing(finished, gim_bench, tmp_path):
    before = records(tmp_path)
    again = gim_bench(*PLAIN)
    assert again.code == 0
    assert again.err == "2 of 2 cells are done already (--rerun runs them again)\n"
    assert again.out == finished.out
    assert records(tmp_path) == before


def test_only_what_is_missing_is_run(finished, gim_bench, tmp_path):
    answer = gim_bench(*PLAIN, "--seeds", "2")
    assert "2 of 4 cells are done already" in answer.err
    assert "gim seed 1: training" in answer.err
    assert "gim seed 0: training" not in answer.err
    assert len(records(tmp_path)) == 4


def test_rerun_runs_finished_cells_again_and_gets_the_same(finished, gim_bench, tmp_path):
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


def test_the_methods_named_are_run(gim_bench, tmp_path):
    gim_bench(*PLAIN, "--method", "supervised", "--method", "random_init")
    assert set(statuses(tmp_path)) == {("supervised", 0), ("random_init", 0)}


def test_a_half_written_record_is_run_again(finished, gim_bench, tmp_path):
    (path,) = tmp_path.glob("runs/tiny/gim/*/record.json")
    path.write_text(path.read_text()[:100])
    answer = gim_bench(*PLAIN)
    assert "1 of 2 cells are done already" in answer.err
    assert statuses(tmp_path)["gim", 0] == "done"


def test_json_is_the_list_that_was_promised_and_nothing_else(gim_bench):
    answer = gim_bench(*PLAIN, "--json")
    cells = json.loads(answer.out)
    assert [cell["method"] for cell in cells] == ["gim", "random_init"]
    for cell in cells:
        assert set(cell) == {
            "suite", "method", "dataset", "seed", "key", "status", "error", "fits", "metrics",
            "config", "provenance", "isolation",
        }  # fmt: skip
        assert (cell["suite"], cell["dataset"], cell["seed"]) == ("tiny", "photos", 0)
        assert (cell["status"], cell["error"], cell["fits"]) == ("done", None, True)
        assert all(isinstance(value, (int, float)) for value in cell["metrics"].values())
        assert {"accuracy", "accuracy/module_1"} <= set(cell["metrics"])
        assert len(cell["provenance"]["data_sha256"]) == 64


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


# -- plan ------------------------------------------------------------------------------------------


def test_a_plan_has_a_line_for_each_cell_and_trains_nothing(gim_bench, tmp_path):
    answer = gim_bench(*RUN, "--plan", "--seeds", "2")
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(r"gim seed 0 +2 steps  about \d.*s +peak \d+\.\d GiB", lines[0])
    assert re.fullmatch(r"random_init seed 0 +0 steps  about \d.*", lines[1])
    assert re.fullmatch(r"gim seed 1 +2 steps  .*", lines[2])
    assert re.fullmatch(r"4 of 4 cells would run, about .* on cpu", lines[-1])
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.toml"}


def test_a_plan_knows_what_is_done(finished, gim_bench, tmp_path):
    before = records(tmp_path)
    lines = gim_bench(*RUN, "--plan").out.splitlines()
    assert [line.split()[-1] for line in lines[:2]] == ["done", "done"]
    assert lines[-1].startswith("0 of 2 cells would run, about 0.0 s")
    assert records(tmp_path) == before


# -- sweep -----------------------------------------------------------------------------------------

SWEEP = ("sweep", "--suite", "./tiny.toml", "--method", "gim", "--trials", "12")


def test_a_sweep_prints_its_table_and_the_report_shows_it(finished, gim_bench, tmp_path):
    answer = gim_bench(*SWEEP, "--no-tracking")
    assert answer.code == 0, answer.err
    assert re.search(r"^\| gim +\| +0 \| module_2 +\| +12 \|", answer.out, re.MULTILINE)
    assert (tmp_path / "runs/tiny/sweep.db").exists()
    report = gim_bench(*REPORT)
    assert answer.out[answer.out.index("| gim") :] in report.out
    assert "## Linear probe: the best learning rate" in report.out


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


def test_a_sweep_is_mirrored_with_a_run_for_each_trial(finished, gim_bench, tmp_path):
    store = tmp_path / "mlflow.db"
    assert gim_bench(*SWEEP, "--tracking-uri", f"sqlite:///{store}").code == 0
    with closing(sqlite3.connect(store)) as database:
        kinds = database.execute("SELECT value, COUNT(*) FROM tags WHERE key='kind' GROUP BY value")
        assert dict(kinds) == {"sweep": 1, "probe_trial": 12}


def test_a_sweep_goes_on_when_the_tracking_store_goes_away(finished, gim_bench, monkeypatch):
    asked = []

    def away(self, record):
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
    assert "the same command goes on" in answer.err


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


def test_a_sweep_of_training_mirrors_its_cells_as_a_run_does(gim_bench, tmp_path):
    store = tmp_path / "mlflow.db"
    assert gim_bench(*SPACE, "--tracking-uri", f"sqlite:///{store}").code == 0
    with closing(sqlite3.connect(store)) as database:
        kinds = database.execute("SELECT value, COUNT(*) FROM tags WHERE key='kind' GROUP BY value")
        assert dict(kinds) == {"cell": 2}


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
    answer = gim_bench("sweep", "--suite", "./tiny.toml", *SPACE[-2:], "--no-tracking")
    assert "random_init trains nothing" in answer.err


# -- report ----------------------------------------------------------------------------------------


def test_a_report_is_the_table_that_the_run_printed(finished, gim_bench):
    answer = gim_bench(*REPORT)
    assert answer.code == 0
    assert finished.out.startswith(answer.out.rstrip("\n"))


def test_a_report_in_json_is_the_list_of_cells(finished, gim_bench):
    cells = json.loads(gim_bench(*REPORT, "--format", "json").out)
    assert {cell["method"] for cell in cells} == {"gim", "random_init"}


def test_a_report_in_csv_has_a_line_for_each_cell_and_metric(finished, gim_bench, tmp_path):
    rows = list(csv.DictReader(io.StringIO(gim_bench(*REPORT, "--format", "csv").out)))
    rows = [row for row in rows if row["method"]]
    assert len(rows) == sum(len(record["metrics"]) for record in records(tmp_path))


def test_a_report_in_html_goes_into_the_file_that_was_named(finished, gim_bench, tmp_path):
    answer = gim_bench(*REPORT, "--format", "html", "--output", "table.html")
    assert (answer.code, answer.out, answer.err) == (0, "", "wrote table.html\n")
    assert "random_init" in (tmp_path / "table.html").read_text()


def test_a_report_of_one_metric_holds_no_other(finished, gim_bench):
    answer = gim_bench(*REPORT, "--format", "json", "--metric", "knn_accuracy")
    assert all(set(cell["metrics"]) == {"knn_accuracy"} for cell in json.loads(answer.out))


@pytest.mark.parametrize("override", ["probe.steps=1", "method.gim.schedule=joint"])
def test_records_with_other_settings_are_left_out_and_counted(override, finished, gim_bench):
    gim_bench(*PLAIN, "--method", "gim", "--set", override)
    answer = gim_bench(*REPORT, "--format", "json")
    assert len(json.loads(answer.out)) == 2
    assert answer.err.startswith("left out: 1 record(s) with other settings")
    other = gim_bench(*REPORT, "--format", "json", "--set", override)
    assert "gim" in {cell["method"] for cell in json.loads(other.out)}
    assert "left out" in other.err


def test_a_record_that_was_altered_is_left_out_and_named(finished, gim_bench, tmp_path):
    path = next((tmp_path / "runs").glob("*/gim/*/record.json"))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    answer = gim_bench(*REPORT, "--format", "json")
    assert [cell["method"] for cell in json.loads(answer.out)] == ["random_init"]
    assert answer.err.startswith("left out: 1 record(s) that were altered, cut off")
    assert str(path.relative_to(tmp_path)) in answer.err


# -- list and data ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "known"),
    [
        ("suites", set(shipped_suites())),
        ("methods", set(registry.methods())),
        ("datasets", set(registry.datasets())),
    ],
)
def test_everything_that_can_be_named_is_listed_with_a_summary(what, known, gim_bench):
    answer = gim_bench("list", what)
    rows = [line.split(maxsplit=1) for line in answer.out.splitlines()]
    assert {name for name, _ in rows} == known
    assert all(len(summary) > 10 for _, summary in rows)


def test_data_that_ship_with_a_package_are_ready_and_intact(gim_bench):
    assert gim_bench("data", "prepare", "--suite", "quickstart").out == (
        "the data of suite 'quickstart' is ready\n"
    )
    assert gim_bench("data", "verify", "--suite", "quickstart").out == (
        "the data of suite 'quickstart' is intact\n"
    )


# -- wrong use -------------------------------------------------------------------------------------

WRONG = {
    "unknown suite": (
        ("run", "--suite", "quikstart"),
        "no suite 'quikstart' (--suite). Did you mean 'quickstart'?",
    ),
    "missing suite file": (("run", "--suite", "./mine.toml"), "no suite file './mine.toml'"),
    "unknown method": ((*PLAIN, "--method", "gmi"), "no method 'gmi' (--method). Did you mean"),
    "unknown data set": (
        (*PLAIN, "--set", "dataset.name=photo"),
        "no dataset 'photo' (suite tiny, dataset.name). Did you mean 'photos'?",
    ),
    "unknown setting": (
        (*PLAIN, "--set", "training.epoch=3"),
        "no setting 'epoch' (tiny.toml with --set: training.epoch). Did you mean 'epochs'?",
    ),
    "unknown section": ((*PLAIN, "--set", "trainings.epochs=3"), "no setting 'trainings'"),
    "unknown data option": ((*PLAIN, "--set", "dataset.sise=3"), "no setting 'sise'"),
    "not a key and a value": ((*PLAIN, "--set", "training"), "is not KEY=VALUE"),
    "wrong type": ((*PLAIN, "--set", "training.epochs=many"), "training.epochs = 'many'"),
    "negative": ((*PLAIN, "--set", "training.batch_size=0"), "training.batch_size = 0"),
    "unknown device": ((*PLAIN, "--device", "tpu"), "no device 'tpu' (--device): use auto, cpu"),
    "a gpu that is not there": ((*PLAIN, "--device", "cuda:99"), "no device 'cuda:99' (--device)"),
    "unwritable folder": (
        (*PLAIN, "--runs-dir", "tiny.toml/runs"),
        "cannot write records to tiny.toml/runs (Not a directory): choose another folder",
    ),
    "unreachable server": (
        (*RUN, "--tracking-uri", "http://127.0.0.1:9"),
        "cannot track to 'http://127.0.0.1:9': no answer from 127.0.0.1 port 9",
    ),
    "no such store": ((*RUN, "--tracking-uri", "ftp://x"), "cannot track to 'ftp://x'"),
    "crop larger than the image": (
        (*PLAIN, "--set", "augmentation.crop=28"),
        "a crop of 28 pixels does not fit into the unlabelled images of photos, 26×26",
    ),
    "batch larger than the data": (
        (*PLAIN, "--set", "training.batch_size=40"),
        "photos has 32 train images, fewer than one batch of 40",
    ),
    "too many stripes": ((*PLAIN, "--set", "dataset.stripes=90"), "lower dataset.size"),
    "too few rows": ((*PLAIN, "--set", "info_nce.prediction_steps=9"), "gives 5 rows of patches"),
    "a method for speech on images": (
        (*PLAIN, "--method", "gim_no_ar"),
        "the method 'gim_no_ar' (--method) is made for speech, and suite 'tiny' is one of images",
    ),
    "speech for an encoder of images": (
        (*PLAIN, "--set", 'dataset={name="espeak"}'),
        "the data set 'espeak' holds speech, but an encoder of kind 'resnet' takes images",
    ),
    "an unknown kind of encoder": (
        (*PLAIN, "--set", "encoder.kind=vgg"),
        "encoder.kind = 'vgg': should be one of 'resnet', 'conv_gru'",
    ),
    "an encoder that cannot take the crops": (
        (*PLAIN, "--set", 'encoder={kind="conv_gru"}'),
        "an encoder of kind 'conv_gru' cannot take what an augmentation of kind 'crop' gives",
    ),
    "bad files skipped where there are none": (
        (*PLAIN, "--skip-bad-files"),
        "no setting 'skip_bad_files' (suite tiny, [dataset]: skip_bad_files)",
    ),
    "data where none is taken": ((*PLAIN, "--data-dir", "."), "takes no --data-dir"),
    "data that are missing": (
        ("run", "--suite", "folder", "--no-tracking", "--data-dir", "nowhere"),
        "nowhere",
    ),
    "data that are not named": (("run", "--suite", "folder", "--no-tracking"), "--data-dir"),
    "no records": (REPORT, "no records of suite 'tiny' with these settings in runs: first run"),
    "unknown suite in a report": (("report", "--suite", "x"), "no suite 'x' (--suite)"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_wrong_use_is_one_line_and_exit_code_2_before_anything_is_trained(
    mistake, gim_bench, tmp_path
):
    command, complaint = WRONG[mistake]
    answer = gim_bench(*command)
    assert answer.code == 2
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    assert line.startswith("error: ")
    assert complaint in line
    assert records(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--metric", "acuracy"), "no metric 'acuracy'. Did you mean 'accuracy'?"),
        (("--format", "jsn"), "no format 'jsn' (--format). Did you mean 'json'?"),
        (("--output", "no/such/folder.md"), "cannot write no/such/folder.md (No such file"),
    ],
)
def test_a_report_that_cannot_be_written_is_one_line(options, complaint, finished, gim_bench):
    answer = gim_bench(*REPORT, *options)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert complaint in line


@pytest.mark.parametrize(
    "command",
    [("run",), ("train",), ("run", "--suit", "x"), (*RUN, "--seeds", "0"), ("list", "people")],
    ids=" ".join,
)
def test_an_unknown_command_or_option_is_exit_code_2_without_a_traceback(command, gim_bench):
    answer = gim_bench(*command)
    assert (answer.code, answer.out) == (2, "")
    assert "Traceback" not in answer.err
    assert answer.err


def test_a_broken_suite_file_is_one_line(gim_bench, tmp_path):
    (tmp_path / "tiny.toml").write_text("name = \n")
    answer = gim_bench(*PLAIN)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert "cannot read the suite tiny.toml" in line


# -- cells that fail, and interruptions ------------------------------------------------------------


@pytest.mark.usefixtures("misbehaving")
def test_a_cell_that_fails_is_exit_code_1_and_the_others_are_done(gim_bench, tmp_path):
    methods = ("broken", "diverging", "gim")
    answer = gim_bench(*PLAIN, *(part for name in methods for part in ("--method", name)))
    assert answer.code == 1
    assert statuses(tmp_path) == {
        ("broken", 0): "failed",
        ("diverging", 0): "failed",
        ("gim", 0): "done",
    }
    assert "broken seed 0 failed: RuntimeError: the forward pass fell over" in answer.err
    assert "diverging seed 0 failed: the loss of module_2 is nan" in answer.err
    assert answer.err.splitlines()[-1] == (
        "error: 2 cell(s) failed: broken seed 0, diverging seed 0"
    )
    assert "Traceback" not in answer.err
    assert re.search(r"^\| *gim\b", answer.out, re.MULTILINE)


@pytest.mark.parametrize(("measures_memory", "code"), [("true", 0), ("false", 1)])
def test_not_to_fit_is_a_result_where_memory_is_measured_and_a_failure_elsewhere(
    measures_memory, code, gim_bench, monkeypatch
):
    def refuse(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr("gim_bench.cells.build.build", refuse)
    monkeypatch.setattr("gim_bench.cells.fresh_process.run_apart", run_cell)
    answer = gim_bench(*PLAIN, "--set", f"fresh_process={measures_memory}", "--json")
    assert answer.code == code
    for cell in json.loads(answer.out):
        assert (cell["status"], cell["fits"]) == ("failed", False)
        assert cell["error"] == "does not fit: CUDA out of memory. Tried to allocate 9 GiB"


@pytest.mark.usefixtures("misbehaving")
def test_what_fails_otherwise_is_exit_code_1_where_memory_is_measured_too(gim_bench, monkeypatch):
    monkeypatch.setattr("gim_bench.cells.fresh_process.run_apart", run_cell)
    answer = gim_bench(*PLAIN, "--method", "broken", "--set", "fresh_process=true")
    assert answer.code == 1


def test_a_disk_that_fails_is_one_line_and_exit_code_1(gim_bench, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "record.json")

    monkeypatch.setattr(RunsFolder, "save", full)
    answer = gim_bench(*PLAIN)
    assert answer.code == 1
    (line,) = answer.err.splitlines()
    assert "No space left on device" in line
    assert "what was finished is kept" in line


@pytest.mark.usefixtures("misbehaving")
def test_a_failed_cell_is_tried_again_and_a_finished_one_is_not(gim_bench, tmp_path):
    command = (*PLAIN, "--method", "broken", "--method", "random_init")
    gim_bench(*command)
    again = gim_bench(*command)
    assert "1 of 2 cells are done already" in again.err
    assert "broken seed 0 failed" in again.err
    assert again.code == 1


@pytest.mark.usefixtures("misbehaving")
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(gim_bench, tmp_path):
    command = (*PLAIN, "--method", "random_init", "--method", "interrupted", "--method", "gim")
    answer = gim_bench(*command)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.splitlines()[-1] == (
        "interrupted: 1 of 3 cells are done and kept; the same command goes on where this one was"
    )
    assert statuses(tmp_path) == {("random_init", 0): "done", ("interrupted", 0): "running"}
    assert "1 of 3 cells are done already" in gim_bench(*command).err


def test_ctrl_c_before_the_first_cell_is_exit_code_130(gim_bench, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gim_bench.datasets.images.photos.Photos.fingerprint", interrupt)
    answer = gim_bench(*PLAIN)
    assert (answer.code, answer.out) == (130, "")
    assert answer.err == "interrupted; what was finished is kept, run the same again\n"


def test_why_says_for_every_cell_whether_it_would_be_run_and_runs_none(finished, gim_bench):
    answer = gim_bench(*PLAIN, "--why", "--set", "training.epochs=2", "--seeds", "2")
    assert (answer.code, answer.err) == (0, "")
    assert [" ".join(line.split()) for line in answer.out.splitlines()] == [
        "gim seed 0 runs: training.epochs is 2, was 1",
        "random_init seed 0 runs: training.epochs is 2, was 1",
        "gim seed 1 runs: it has no record yet",
        "random_init seed 1 runs: it has no record yet",
    ]
    assert "done: nothing has changed since" in gim_bench(*PLAIN, "--why").out


def test_ctrl_c_before_the_command_has_begun_is_exit_code_130(gim_bench, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("gim_bench.cli.main.app", interrupt)
    answer = gim_bench(*PLAIN)
    assert answer == (130, "", "interrupted; what was finished is kept, run the same again\n")


def test_a_cell_that_takes_too_long_has_failed_and_the_next_one_runs(gim_bench, tmp_path):
    slow = ("--method", "gim", "--method", "random_init", "--set", "training.epochs=100000")
    with over_once(lambda: list(tmp_path.glob("runs/tiny/gim/*/losses.csv"))):
        answer = gim_bench(*PLAIN, *slow, "--cell-timeout", f"{LIMIT_SECONDS:g}")
    assert answer.code == 1
    assert f"gim seed 0 failed: took longer than --cell-timeout {LIMIT_SECONDS:g} s" in answer.err
    assert statuses(tmp_path) == {("gim", 0): "failed", ("random_init", 0): "done"}


@pytest.mark.parametrize("seconds", ["inf", "nan", "0", "1e9"])
def test_a_time_limit_that_no_clock_can_be_set_to_is_wrong_use(seconds, gim_bench, tmp_path):
    answer = gim_bench(*PLAIN, "--cell-timeout", seconds)
    assert answer.code == 2
    assert "'--cell-timeout'" in answer.err
    assert not (tmp_path / "runs").exists()


# -- MLflow ----------------------------------------------------------------------------------------


def mlflow_runs(folder):
    """(name, status) of every run that is not deleted, as the SQLite file holds them."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return sorted(
            database.execute("SELECT name, status FROM runs WHERE lifecycle_stage = 'active'")
        )


@pytest.mark.slow
def test_mlflow_has_a_run_for_each_cell_and_a_second_run_adds_none(
    gim_bench, tmp_path, monkeypatch
):
    # By its full path: within a process, MLflow keeps a store open by its address.
    command = (*RUN, "--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db")
    first = gim_bench(*command)
    assert first.code == 0
    assert first.out.splitlines()[-1] == f"MLflow:  mlflow ui --backend-store-uri {command[-1]}"
    expected = [
        ("gim seed 0", "FINISHED"),
        ("gim summary, n=1", "FINISHED"),
        ("random_init seed 0", "FINISHED"),
        ("random_init summary, n=1", "FINISHED"),
    ]
    assert mlflow_runs(tmp_path) == expected

    def asked(*_, **__):
        pytest.fail("a finished suite does not load MLflow")

    monkeypatch.setattr(Tracker, "mirror", asked)
    monkeypatch.setattr(Tracker, "summarise", asked)
    second = gim_bench(*command)
    assert (second.code, second.out) == (0, first.out)
    assert mlflow_runs(tmp_path) == expected


class Mirror:
    """Takes MLflow's place; it is away while `broken`."""

    def __init__(self, monkeypatch):
        self.broken, self.asked, self.mirrored, self.summaries = False, 0, [], []

        def mirror(_, record, *, folder=None):
            self.answer()
            self.mirrored.append((record.method, record.status.value))

        def summarise(_, suite, records):
            self.answer()
            self.summaries.append([record.method for record in records])

        monkeypatch.setattr(Tracker, "mirror", mirror)
        monkeypatch.setattr(Tracker, "summarise", summarise)

    def answer(self):
        self.asked += 1
        if self.broken:
            raise TrackingError("cannot track to 'sqlite:///mlflow.db': it went away")


@pytest.fixture
def mirror(monkeypatch):
    return Mirror(monkeypatch)


def test_cells_are_mirrored_one_by_one_and_then_summed_up(gim_bench, mirror):
    answer = gim_bench(*RUN)
    assert answer.code == 0
    assert answer.out.splitlines()[-1] == "MLflow:  mlflow ui"
    assert mirror.mirrored == [("gim", "done"), ("random_init", "done")]
    assert mirror.summaries == [["gim", "random_init"]]


def test_mlflow_that_breaks_in_the_middle_costs_no_cell(gim_bench, mirror, tmp_path):
    mirror.broken = True
    answer = gim_bench(*RUN)
    assert answer.code == 0
    assert statuses(tmp_path) == {("gim", 0): "done", ("random_init", 0): "done"}
    assert "not mirrored: cannot track to 'sqlite:///mlflow.db': it went away" in answer.err
    assert "Traceback" not in answer.err
    assert re.search(r"^\| *gim\b", answer.out, re.MULTILINE)


def test_what_mlflow_missed_is_mirrored_next_time(gim_bench, mirror):
    mirror.broken = True
    gim_bench(*RUN)
    mirror.broken = False
    answer = gim_bench(*RUN)
    assert "2 of 2 cells are done already" in answer.err
    assert mirror.mirrored == [("gim", "done"), ("random_init", "done")]
    assert mirror.summaries == [["gim", "random_init"]]


def test_a_store_that_failed_once_is_left_alone_for_the_rest_of_the_run(gim_bench, mirror):
    """Its time-outs would otherwise be paid at every cell; one line says what mirrors the rest."""
    mirror.broken = True
    answer = gim_bench(*RUN, "--seeds", "2")
    assert answer.code == 0
    assert mirror.asked == 1
    assert answer.err.count("not mirrored") == 1


def test_a_run_of_some_seeds_sums_up_all_that_are_finished(gim_bench, mirror):
    gim_bench(*RUN, "--seeds", "2", "--method", "gim")
    gim_bench(*RUN, "--seeds", "1")
    assert mirror.summaries == [["gim", "gim"], ["gim", "gim", "random_init"]]


def test_a_cell_that_another_process_finishes_meanwhile_is_summed_up_too(
    finished, gim_bench, mirror, monkeypatch, tmp_path
):
    """Or the summary of eight seeds, if that process was quicker, would become one of seven."""
    (folder,) = tmp_path.glob("runs/tiny/gim/seed-*")
    summarise = Tracker.summarise

    def slowly(tracker, suite, records):
        summarise(tracker, suite, records)
        record = read_record(folder / "record.json")
        RunsFolder(tmp_path / "runs").save(replace(record, seed=1, key="1" * 64))

    monkeypatch.setattr(Tracker, "summarise", slowly)
    gim_bench(*RUN)
    assert mirror.summaries == [["gim", "random_init"], ["gim", "gim", "random_init"]]


@pytest.mark.usefixtures("misbehaving")
def test_a_failed_cell_is_mirrored_too(gim_bench, mirror):
    gim_bench(*RUN, "--method", "broken")
    assert mirror.mirrored == [("broken", "failed")]


def test_the_tracking_store_can_come_from_mlflows_own_variable(gim_bench, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://elsewhere")
    assert "cannot track to 'ftp://elsewhere'" in gim_bench(*RUN).err


# -- sync ------------------------------------------------------------------------------------------

SYNC = ("sync", "--runs-dir", "runs")


@pytest.fixture
def store(tmp_path):
    """A store by its full path: within a process, MLflow keeps one open by its address."""
    return ("--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db")


def test_sync_mirrors_what_was_run_without_tracking_and_the_second_time_nothing(
    finished, gim_bench, tmp_path, store
):
    gim_bench(*SWEEP, "--no-tracking")
    first = gim_bench(*SYNC, *store)
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines() == [
        "tiny: new in MLflow: gim seed 0",
        "tiny: new in MLflow: random_init seed 0",
        "tiny: new in MLflow: gim seed 0 sweep",
        "tiny: new in MLflow: gim summary, n=1",
        "tiny: new in MLflow: random_init summary, n=1",
        "tiny: 5 new in MLflow, 0 there already",
    ]
    before = (tmp_path / "mlflow.db").read_bytes()
    assert gim_bench(*SYNC, *store).out == "tiny: 0 new in MLflow, 5 there already\n"
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_after_a_run_that_was_mirrored_there_is_nothing_to_sync(gim_bench, tmp_path, store):
    gim_bench(*RUN, *store)
    before = (tmp_path / "mlflow.db").read_bytes()
    assert gim_bench(*SYNC, *store).out == "tiny: 0 new in MLflow, 4 there already\n"
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_sync_leaves_the_records_alone(finished, gim_bench, tmp_path, store):
    before = sorted(tmp_path.glob("runs/**/*"))
    gim_bench(*SYNC, *store)
    assert sorted(tmp_path.glob("runs/**/*")) == before


def test_sync_takes_all_settings_or_those_that_are_named(finished, gim_bench, store):
    changed = ("--set", "training.epochs=2")
    gim_bench(*PLAIN, *changed, "--method", "gim")
    named = gim_bench(*SYNC, "--suite", "./tiny.toml", *changed, *store)
    assert named.out.endswith("tiny: 2 new in MLflow, 0 there already\n")
    every = gim_bench(*SYNC, "--suite", "./tiny.toml", *store)
    assert every.out.endswith("tiny: 4 new in MLflow, 2 there already\n")


def test_a_cell_that_is_finished_during_sync_is_mirrored_and_summed_up(
    finished, gim_bench, tmp_path, store, monkeypatch
):
    (folder,) = tmp_path.glob("runs/tiny/gim/seed-*")
    put = Tracker.put

    def slowly(tracker, suite, entry):
        record = read_record(folder / "record.json")
        RunsFolder(tmp_path / "runs").save(replace(record, seed=1, key="1" * 64))
        return put(tracker, suite, entry)

    monkeypatch.setattr(Tracker, "put", slowly)
    lines = gim_bench(*SYNC, *store).out.splitlines()
    assert "tiny: new in MLflow: gim seed 1" in lines
    assert "tiny: new in MLflow: gim summary, n=2" in lines
    assert lines[-1] == "tiny: 5 new in MLflow, 0 there already"


def test_a_store_that_breaks_during_sync_is_one_line_and_exit_code_1(
    finished, gim_bench, monkeypatch
):
    def away(*_):
        raise TrackingError("cannot track to 'sqlite:///mlflow.db': it went away")

    monkeypatch.setattr(Tracker, "put", away)
    answer = gim_bench(*SYNC)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "error: cannot track to 'sqlite:///mlflow.db': it went away\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--tracking-uri", "http://127.0.0.1:9"), "no answer from 127.0.0.1 port 9"),
        (("--runs-dir", "nowhere"), "no records in nowhere: name the folder with --runs-dir"),
        (("--suite", "smoke"), "no records of suite 'smoke' in runs"),
        (
            ("--suite", "./tiny.toml", "--set", "training.epochs=9"),
            "no records of suite './tiny.toml' with these settings in runs",
        ),
        (("--set", "training.epochs=9"), "--set is for the settings of one suite: add --suite"),
    ],
)
def test_what_cannot_be_synced_is_one_line_and_exit_code_2(
    finished, gim_bench, arguments, complaint
):
    answer = gim_bench(*SYNC, *arguments)
    assert answer.code == 2
    assert complaint in answer.err
    assert answer.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", [Server.kill, Server.pause])
def test_a_server_that_dies_or_hangs_costs_no_cell_and_sync_makes_it_good(
    gim_bench, tmp_path, monkeypatch, end
):
    """In the middle of the second of four cells; twice the same afterwards changes nothing."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    fill, filled = Tracker._fill, []

    def in_the_middle(tracker, run_id, entry):
        filled.append(entry.name)
        if len(filled) == 2:
            end(server)
        fill(tracker, run_id, entry)

    monkeypatch.setattr(Tracker, "_fill", in_the_middle)
    with Server(tmp_path / "server") as server:
        tracking = ("--tracking-uri", server.uri)
        answer = gim_bench(*RUN, "--seeds", "2", *tracking)
        assert answer.code == 0
        assert set(statuses(tmp_path).values()) == {"done"}
        assert len(statuses(tmp_path)) == 4
        assert answer.err.count("not mirrored") == 1
        assert "python -m gim_bench sync" in answer.err
        assert len(filled) == 2

        server.bring_back()
        assert gim_bench(*SYNC, *tracking).out.endswith("tiny: 5 new in MLflow, 1 there already\n")
        synced = server.content("gim_bench/tiny")
        assert names(synced) == [
            "gim seed 0", "gim seed 1", "gim summary, n=2",
            "random_init seed 0", "random_init seed 1", "random_init summary, n=2",
        ]  # fmt: skip
        assert gim_bench(*SYNC, *tracking).out == "tiny: 0 new in MLflow, 6 there already\n"
        assert server.content("gim_bench/tiny") == synced


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


# -- check -----------------------------------------------------------------------------------------

CHECK = ("check", "--suite", "./tiny.toml", "--against", "reference.json")


@pytest.fixture
def referenced(gim_bench, monkeypatch):
    """The suite, run with three seeds from a clean checkout, and their reference."""
    monkeypatch.setattr(provenance, "git_state", lambda: COMMITTED)
    assert gim_bench(*PLAIN, "--seeds", "3").code == 0
    answer = gim_bench(*CHECK, "--update", "--reason", "the tests")
    assert (answer.code, answer.err) == (0, "wrote reference.json\n")
    return answer


def test_what_has_not_changed_passes(referenced, gim_bench):
    answer = gim_bench(*CHECK)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("Check of tiny: passes")


def test_what_is_worse_is_exit_code_1_and_goes_into_the_file_that_was_named(
    referenced, gim_bench, tmp_path
):
    path = tmp_path / "reference.json"
    kept = json.loads(path.read_text())
    kept["methods"]["gim"]["metrics"]["loss"] = {"0": 0.1, "1": 0.1, "2": 0.1}
    path.write_text(json.dumps(kept))
    answer = gim_bench(*CHECK, "--format", "junit", "--output", "junit.xml")
    assert (answer.code, answer.out, answer.err) == (1, "", "wrote junit.xml\n")
    assert 'failures="1"' in (tmp_path / "junit.xml").read_text()


def test_cells_of_older_code_cannot_be_judged(referenced, gim_bench, monkeypatch):
    """What was run before an edit is not run again, and says nothing of the edit."""
    monkeypatch.setattr(provenance, "git_state", lambda: {**COMMITTED, "git_commit": "b" * 40})
    assert gim_bench(*PLAIN, "--seeds", "3").code == 0
    answer = gim_bench(*CHECK)
    assert answer.code == 3
    assert "run with --rerun, or into a fresh --runs-dir" in answer.out


def test_a_suite_that_was_not_run_cannot_be_judged(referenced, gim_bench):
    answer = gim_bench(*CHECK, "--runs-dir", "elsewhere")
    assert answer.code == 3
    assert "no cell of gim" in answer.out


def test_other_settings_than_the_references_cannot_be_judged(referenced, gim_bench):
    longer = ("--set", "training.epochs=2")
    assert gim_bench(*PLAIN, "--seeds", "3", *longer).code == 0
    answer = gim_bench(*CHECK, *longer)
    assert answer.code == 3
    assert "training.epochs 2, not 1" in answer.out
    assert answer.err.startswith("left out: 6 record(s) with other settings")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--update",), "a new reference needs a reason"),
        (("--reason", "x"), "--reason is for a new reference"),
        (("--format", "xml"), "no format 'xml'"),
        (("--against", "none.json"), "cannot read the reference none.json"),
        (("--against", "tiny.toml"), "tiny.toml: the file: invalid JSON"),
        (("--update", "--reason", "x", "--against", "tiny.toml/a"), "cannot write tiny.toml/a"),
    ],
)
def test_wrong_use_of_check_is_one_line(options, complaint, referenced, gim_bench):
    answer = gim_bench(*CHECK, *options)
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert answer.err.startswith(f"error: {complaint}")
