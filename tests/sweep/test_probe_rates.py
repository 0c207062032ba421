"""Sweeps of the probe's learning rate: the trials of finished cells, and what a record holds."""

import copy
import json
import math
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gim_bench.cells.run import run_cell
from gim_bench.errors import ConfigError
from gim_bench.probing.linear import Tried
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from gim_bench.report import render_sweeps
from gim_bench.report.sweeps import sweep_tables
from gim_bench.sweep import frozen, probe_rates
from gim_bench.sweep.frozen import Frozen
from gim_bench.sweep.probe_rates import (
    GRID,
    ProbeTrials,
    decades_within,
    first_values,
    sweep_cell,
    tried_in,
)
from gim_bench.sweep.studies import Studies
from gim_bench.system.locks import locked
from gim_bench.testing.cases import CLASS, PHONE
from tests.sweep.sharing import complete, tried
from tests.tiny_suite import SPEECH_TOML, noise_registered, tiny_bench, tiny_cell, tiny_suite

pytestmark = pytest.mark.usefixtures("url")  # Optuna's tables are there before the sweep

# -- cells -----------------------------------------------------------------------------------------


class Swept:
    """A tiny cell that is finished, and what to sweep it with."""

    def __init__(self, folder, *overrides, method="gim", toml=None):
        suite = tiny_suite(folder, *overrides, **({} if toml is None else {"toml": toml}))
        self.bench = tiny_bench(suite)
        self.cell = tiny_cell(suite, method)
        self.runs = RunsFolder(folder / "runs")
        self.record = run_cell(self.cell, self.bench, runs=self.runs)
        assert self.record.status is Status.DONE, self.record.error
        self.url = f"sqlite:///{folder / 'sweep.db'}"

    @property
    def folder(self):
        return self.runs.folder_of(self.record)

    def features(self, *, record=None, encoder=None):
        """The features on disk, or None if they are refused."""
        encoder = encoder or self.runs.encoder_sha256(self.record, name="encoder")
        return self.runs.read_features(
            record or self.record, name="class-module_2", encoder=encoder
        )

    def sweep(self, *, record=None, **plan):
        """With the newest record, if none is given."""
        newest = record or self.runs.find(
            self.record.suite, self.record.method, seed=self.record.seed, key=self.record.key
        )
        return sweep_cell(
            self.cell,
            newest,
            self.bench,
            runs=self.runs,
            studies=Studies(self.url),
            plan=ProbeTrials(**{"trials": 14} | plan),
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Swept(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def finished(trained, tmp_path, url):
    """A copy of the trained cell, which the test may change."""
    copied = copy.copy(trained)
    shutil.copytree(trained.runs.root, tmp_path / "runs")
    copied.runs = RunsFolder(tmp_path / "runs")
    copied.url = url
    return copied


def test_results_of_trials_are_read_in_their_order(studies):
    study = studies.open("study", {})
    complete(study, 4)
    assert tried_in(study, hyperparameter="learning_rate") == tried(
        [{"learning_rate": rate} for rate in GRID[:4]]
    )


def test_a_loss_that_is_not_a_number_is_kept_as_infinite(studies):
    study = studies.open("study", {})
    lost = Tried(hyperparameter=1.0, accuracy=10.0, loss=math.nan)
    complete(study, 1, evaluate=lambda params: [lost])
    assert tried_in(study, hyperparameter="learning_rate")[0].loss == math.inf


@pytest.mark.parametrize("error", [OSError, RuntimeError, ValueError])
def test_an_error_within_a_trial_is_not_laid_to_the_database(finished, monkeypatch, error):
    def broken(*args, **kwargs):
        raise error("in the midst of a trial")

    monkeypatch.setattr(probe_rates, "validate_linear", broken)
    with pytest.raises(error, match="in the midst of a trial"):
        finished.sweep()


def test_a_trial_has_the_validation_accuracy_of_the_suites_own_probe_at_its_rate(finished):
    (found,) = finished.sweep().sweeps.values()
    by_rate = {row["learning_rate"]: row["validation_accuracy"] for row in found["curve"]}
    assert finished.record.probe_curves["module_2"]
    for rate, accuracy in finished.record.probe_curves["module_2"]:
        assert by_rate[rate] == accuracy


def test_the_papers_rate_is_tested_as_the_suites_probe_tests_it(tmp_path):
    only = Swept(tmp_path, "probe.learning_rates=[1e-3]", "probe.steps=40")
    (found,) = only.sweep().sweeps.values()
    assert found["paper"] == {
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "validation_accuracy": only.record.probe_curves["module_2"][0][1],
        "test_accuracy": only.record.metrics["accuracy/module_2"],
    }


# The tiny suite's probe with the settings that all probes share.
REGRESSION = "probe={kind='logistic_regression', penalties=[0.02, 1e-3], unseen_validation=false}"


def test_trials_of_a_logistic_regression_are_penalties(tmp_path):
    swept = Swept(tmp_path, REGRESSION)
    (found,) = swept.sweep(trials=18).sweeps.values()
    assert "paper" not in found
    assert {tuple(row) for row in found["curve"]} == {
        ("penalty", "validation_accuracy", "validation_loss")
    }
    penalties = [row["penalty"] for row in found["curve"]]
    assert penalties[:3] == [0.02, 1e-3, 1e-6]
    assert min(penalties) == 1e-6
    assert max(penalties) == 10
    assert len(set(penalties)) == 18


def test_the_suites_best_penalty_is_tested_as_the_suites_probe_tests_it(tmp_path):
    swept = Swept(tmp_path, REGRESSION)
    newest = swept.sweep()
    (found,) = newest.sweeps.values()
    assert found["suite"]["test_accuracy"] == swept.record.metrics["accuracy/module_2"]
    curve = swept.record.probe_curves["module_2"]
    assert found["suite"]["validation_accuracy"] == max(accuracy for _, accuracy in curve)
    (shown,) = sweep_tables([newest])
    headings = [column.heading for column in shown.columns]
    assert "best penalty" in headings
    assert shown.rows[0][headings.index("best of the suite's penalties")] in ("0.02", "0.001")


def test_a_probe_that_did_not_converge_is_noted_in_the_record_and_below_the_table(
    tmp_path, monkeypatch
):
    swept = Swept(tmp_path, REGRESSION)
    converged = swept.sweep(trials=2)
    assert "unconverged" not in converged.sweeps["module_2"]
    refit = probe_rates.refit_linear
    monkeypatch.setattr(probe_rates, "refit_linear", lambda *a, **o: (refit(*a, **o)[0], False))
    newest = swept.sweep(trials=3)
    assert newest.sweeps["module_2"]["unconverged"] == ["best", "suite"]
    assert newest in swept.runs.records("tiny")
    shown = render_sweeps([newest], suite="tiny", as_json=False)
    for heading in ("best penalty", "best of the suite's penalties"):
        assert f"gim seed 0, module_2: the probe of the {heading} did not converge" in shown
    assert "did not converge" not in render_sweeps([converged], suite="tiny", as_json=False)


def noted_grids(monkeypatch):
    """A list that gets the rates or penalties of each pass from now on."""
    grids = []
    validate = probe_rates.validate_linear

    def noted(task, *, grid, **others):
        grids.append(list(grid))
        return validate(task, grid=grid, **others)

    monkeypatch.setattr(probe_rates, "validate_linear", noted)
    return grids


def test_penalties_of_the_suite_that_no_trial_had_are_tried_for_its_best(tmp_path, monkeypatch):
    """Of two penalties, one trial has the first."""
    swept = Swept(tmp_path, REGRESSION)
    grids = noted_grids(monkeypatch)
    (found,) = swept.sweep(trials=1).sweeps.values()
    assert grids == [[0.02], [1e-3]]
    curve = swept.record.probe_curves["module_2"]
    assert found["suite"]["validation_accuracy"] == max(accuracy for _, accuracy in curve)
    assert found["suite"]["test_accuracy"] == swept.record.metrics["accuracy/module_2"]
    assert found["trials"] == len(found["curve"]) == 1


@pytest.mark.parametrize(("method", "notes"), [("supervised", 1), ("gim", 0)])
def test_a_sweep_of_an_encoder_that_saw_the_validation_labels_says_so(method, notes, tmp_path):
    newest = Swept(tmp_path, REGRESSION, method=method).sweep(trials=1)
    shown = render_sweeps([newest], suite="tiny", as_json=False)
    note = f"- {method}: its encoder was trained on the labels of the validation examples"
    assert shown.count(note) == notes


def test_a_logistic_regression_has_no_weight_decay(tmp_path):
    with pytest.raises(ConfigError, match="leave out --weight-decay"):
        Swept(tmp_path, REGRESSION).sweep(weight_decay=True)


def test_the_papers_trial_is_taken_from_the_study(finished, monkeypatch):
    """One pass trains the 14 trials, and no other follows them."""
    grids = noted_grids(monkeypatch)
    finished.sweep()
    assert list(map(len, grids)) == [14]
    finished.sweep(weight_decay=True)
    assert list(map(len, grids)) == [14, 14, 1]


def test_the_best_is_the_most_accurate_and_among_equals_of_the_lowest_loss(finished):
    (found,) = finished.sweep().sweeps.values()
    rows = found["curve"]
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert found["best"]["learning_rate"] == best["learning_rate"]
    assert found["trials"] == len(rows) == 14
    assert found["study"].split("/")[:2] == ["tiny", "gim"]
    assert found["study"].split("/")[3:] == ["class", "module_2"]


def test_the_record_and_a_file_hold_the_sweep_and_all_else_is_as_it_was(finished):
    swept = finished.sweep()
    found = finished.runs.records("tiny")
    assert found == [swept]
    assert swept.metrics == finished.record.metrics
    assert swept.status is Status.DONE
    table = json.loads((finished.folder / "sweep.json").read_text())
    assert table["key"] == swept.key
    assert table["sweeps"] == swept.sweeps


def test_all_modules_are_swept_on_request_and_stand_beside_each_other(finished):
    assert list(finished.sweep().sweeps) == ["module_2"]
    assert set(finished.sweep(all_modules=True).sweeps) == {"module_1", "module_2"}


def test_weight_decay_is_varied_in_a_study_of_its_own(finished):
    finished.sweep()
    swept = finished.sweep(weight_decay=True)
    assert set(swept.sweeps) == {"module_2", "module_2/weight_decay"}
    found = swept.sweeps["module_2/weight_decay"]
    assert len({row["weight_decay"] for row in found["curve"]}) == 14
    assert found["paper"]["weight_decay"] == 0.0
    assert found["decades_within_one_point"] is None


def test_a_second_sweep_runs_no_encoder_and_reads_no_test_set(finished, monkeypatch):
    swept = finished.sweep()
    monkeypatch.setattr(
        "gim_bench.cells.frozen.build", lambda *args, **kwargs: pytest.fail("built")
    )
    assert finished.sweep() == swept


def count_tests(monkeypatch):
    """The probes of every pass over the test set, a list that grows."""
    passes = []
    test_accuracies = Frozen.test_accuracies

    def counted(frozen, probes):
        passes.append(len(probes))
        return test_accuracies(frozen, probes)

    monkeypatch.setattr(Frozen, "test_accuracies", counted)
    return passes


def test_a_process_that_began_before_another_one_tested_does_not_test_again(finished, monkeypatch):
    """It was given the record as it was without sweeps."""
    swept = finished.sweep()
    passes = count_tests(monkeypatch)
    assert finished.sweep(record=finished.record) == swept
    assert passes == []


def test_the_test_set_is_read_again_for_more_trials_and_the_reads_are_counted(
    finished, monkeypatch
):
    passes = count_tests(monkeypatch)
    assert finished.sweep().sweeps["module_2"]["test_reads"] == 1
    longer = finished.sweep(trials=16)
    assert longer.sweeps["module_2"]["trials"] == 16
    assert longer.sweeps["module_2"]["test_reads"] == 2
    assert len(passes) == 2
    assert finished.sweep(trials=14) == longer
    (shown,) = sweep_tables([longer])
    headings = [column.heading for column in shown.columns]
    assert shown.rows[0][headings.index("test reads")] == "2"


def test_a_sweep_that_another_process_saved_meanwhile_stays(finished, monkeypatch):
    """It saved its sweep in the midst of the test."""
    other = finished.sweep(trials=2).sweeps["module_2"]
    test_accuracies = Frozen.test_accuracies

    def slow(frozen, probes):
        newest = frozen.newest()
        frozen.runs.save_sweeps(replace(newest, sweeps={"other": other}))
        return test_accuracies(frozen, probes)

    monkeypatch.setattr(Frozen, "test_accuracies", slow)
    assert set(finished.sweep().sweeps) == {"other", "module_2"}


def test_records_are_read_tested_and_saved_by_one_process_at_a_time(finished, monkeypatch):
    test_accuracies = Frozen.test_accuracies
    refused = []

    def within(frozen, probes):
        with claim_of(finished) as claim:
            refused.append(claim is None)
        return test_accuracies(frozen, probes)

    monkeypatch.setattr(Frozen, "test_accuracies", within)
    finished.sweep()
    assert refused == [True]


def claim_of(finished):
    found = finished.record
    return finished.runs.claimed(found.suite, found.method, seed=found.seed, key=found.key)


def test_a_sweep_that_waits_for_a_cell_keeps_no_other_sweep_waiting(
    finished, tmp_path, monkeypatch
):
    """For hours, maybe: nothing of the database is locked meanwhile."""
    waits, claimed = threading.Event(), finished.runs.claimed

    @contextmanager
    def noticed(*arguments, **identity):
        with claimed(*arguments, **identity) as claim:
            if claim is None:
                waits.set()
            yield claim

    monkeypatch.setattr(finished.runs, "claimed", noticed)
    monkeypatch.setattr(frozen, "WAIT_SECONDS", 0.01)
    with ThreadPoolExecutor() as pool:
        with claim_of(finished):
            sweep = pool.submit(finished.sweep)
            assert waits.wait(300)
            for path in tmp_path.rglob("*.lock"):
                with locked(path, timeout_seconds=5):
                    pass
        assert "module_2" in sweep.result().sweeps


def again(finished):
    """The cell's record, with the time of a run after the one that is swept."""
    provenance = {**finished.record.provenance, "finished_at": "2100-01-01T00:00:00+00:00"}
    finished.runs.save(replace(finished.record, provenance=provenance))


@pytest.mark.parametrize(
    "change",
    [
        again,
        lambda finished: (finished.folder / "record.json").unlink(),
        lambda finished: damage(finished.folder / "encoder.safetensors"),
    ],
    ids=["run again", "removed", "another encoder"],
)
def test_a_cell_that_was_run_again_during_its_sweep_is_refused(finished, monkeypatch, change):
    test_accuracies = Frozen.test_accuracies

    def meanwhile(frozen, probes):
        found = test_accuracies(frozen, probes)
        change(finished)
        return found

    monkeypatch.setattr(Frozen, "test_accuracies", meanwhile)
    with pytest.raises(ConfigError, match=r"^cannot keep the sweep of tiny/gim[^\n]*again[^\n]*$"):
        finished.sweep()
    assert not (finished.folder / "sweep.json").exists()


def test_a_record_without_sweeps_leaves_no_file_of_earlier_ones(finished):
    finished.sweep()
    finished.runs.save(finished.record)
    assert not (finished.folder / "sweep.json").exists()


def damage(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("harm", [damage, cut, Path.unlink])
def test_features_that_are_damaged_are_made_again(finished, harm):
    swept = finished.sweep()
    (path,) = (finished.folder / "features").iterdir()
    whole = finished.features().clone()  # it is mapped to the file
    harm(path)
    assert finished.features() is None
    assert finished.sweep() == swept
    assert torch.equal(finished.features(), whole)


def test_features_of_another_encoder_or_cell_are_not_taken(finished):
    finished.sweep()
    assert finished.features() is not None
    assert finished.features(encoder="another") is None
    key = "1" * len(finished.record.key)
    other = replace(finished.record, key=key)
    shutil.copytree(finished.folder, finished.runs.folder_of(other))
    assert finished.features(record=other) is None


@pytest.mark.parametrize("harm", [cut, Path.unlink])
def test_an_encoder_that_is_missing_or_damaged_is_one_line(finished, harm):
    harm(finished.folder / "encoder.safetensors")
    with pytest.raises(ConfigError, match=r"cannot read the encoder[^\n]*--rerun$"):
        finished.sweep(record=finished.record)


@pytest.mark.parametrize("method", ["gim", "supervised"])
def test_on_speech_every_target_is_swept_with_its_own_model(tmp_path, method):
    with noise_registered():
        spoken = Swept(
            tmp_path, "probe.learning_rates=[1e-3, 1e-4]", method=method, toml=SPEECH_TOML
        )
        swept = spoken.sweep()
    assert set(swept.sweeps) == {"speaker/module_6", "phone/module_6"}
    for name, found in swept.sweeps.items():
        own = dict(spoken.record.probe_curves[name])
        by_rate = {row["learning_rate"]: row["validation_accuracy"] for row in found["curve"]}
        assert {rate: by_rate[rate] for rate in own} == own
    assert swept.sweeps["speaker/module_6"]["paper"]["learning_rate"] == 1e-3
    assert swept.sweeps["phone/module_6"]["paper"]["learning_rate"] == 1e-4


# -- numbers ---------------------------------------------------------------------------------------


def test_the_papers_rate_comes_first_then_the_suites_then_the_grid(tmp_path):
    settings = tiny_suite(tmp_path, "probe.learning_rates=[0.02, 1e-3]").probe
    assert first_values(CLASS, settings)[:2] == [1e-3, 0.02]
    assert first_values(PHONE, settings)[:3] == [1e-4, 0.02, 1e-3]
    assert len(first_values(CLASS, settings)) == len(GRID) + 1
    assert (GRID[0], GRID[-1], len(GRID)) == (1e-5, 1.0, 11)


def curve(*pairs):
    return [Tried(hyperparameter=rate, accuracy=value, loss=1.0) for rate, value in pairs]


def test_the_range_within_a_point_is_unbroken_and_in_powers_of_ten():
    found = curve((1e-1, 60), (1e-4, 69), (1e-3, 70), (1e-2, 69.5), (1e-5, 68), (1.0, 69.5))
    assert decades_within(found, points=1.0) == pytest.approx(2.0)
    assert decades_within(found, points=10.0) == pytest.approx(5.0)
    assert decades_within(found[:1], points=1.0) == 0.0


def test_just_one_point_below_is_within_one_point():
    """634 and 644 of 1,000: in floating point, the two are a little further apart."""
    low, high = 100 * 634 / 1000, 100 * 644 / 1000
    assert high - low > 1.0
    assert decades_within(curve((1e-3, low), (1e-2, high)), points=1.0) == pytest.approx(1.0)
