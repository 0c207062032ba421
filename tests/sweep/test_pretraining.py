"""Sweeps of settings of training: trials that are whole cells, and what is left of them."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from gim_bench import registry
from gim_bench.cells import phases
from gim_bench.cells.phases import Abandoned
from gim_bench.cells.run import run_cell
from gim_bench.errors import ConfigError
from gim_bench.probing.probe import chosen_accuracy
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from gim_bench.report.spaces import render_spaces
from gim_bench.sweep import pretraining, studies
from gim_bench.sweep.pretraining import Pretraining, sweep_pretraining
from gim_bench.sweep.spaces import parse_space
from gim_bench.sweep.studies import SharedStudy, Studies
from tests.tiny_suite import (
    MISBEHAVING,
    SPEECH_TOML,
    TOML,
    noise_registered,
    tiny_bench,
    tiny_cell,
    tiny_suite,
)

ROOT = Path(__file__).resolve().parents[2]
LEARNABLE = ("dataset.train_crops=6", "probe.standardise=true", "probe.steps=40")
RATES = "training.learning_rate=1e-4..1e-1"


class Told(Silence):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


class DrawsTheSuitesOwn(optuna.samplers.RandomSampler):
    """Draws the tiny suite's learning rate each time."""

    def sample_independent(self, study, trial, param_name, param_distribution):
        return "1e-3"


class Sweep:
    """The tiny suite with a probe that learns something, and what is swept in it."""

    def __init__(self, folder, *space, method="gim", toml=TOML, overrides=()):
        self.folder = folder
        self.overrides = [*LEARNABLE, *overrides]
        suite = tiny_suite(folder, *self.overrides, toml=toml)
        self.told = Told()
        self.bench = tiny_bench(suite, progress=self.told)
        self.own = tiny_cell(suite, method)
        self.runs = RunsFolder(folder / "runs")
        self.url = f"sqlite:///{folder / 'sweep.db'}"
        self.plan = Pretraining(
            suite=str(folder / "tiny.toml"),
            overrides=self.overrides,
            axes=parse_space(space or [RATES]),
            trials=3,
            apart=False,
        )
        self.mirrored = []

    def __call__(self, **plan):
        self.plan = replace(self.plan, **plan)
        return sweep_pretraining(
            self.own,
            self.bench,
            runs=self.runs,
            studies=Studies(self.url),
            plan=self.plan,
            mirror=self.mirrored.append,
        )

    def records(self):
        return {record.key: record for record in self.runs.records(self.own.suite)}

    def trials(self, *states):
        (name,) = optuna.get_all_study_names(self.url)
        return optuna.load_study(storage=self.url, study_name=name).get_trials(
            states=states or None
        )


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


# -- trials ----------------------------------------------------------------------------------------


def test_the_first_trial_is_the_suites_own_cell(sweep):
    found = sweep()
    assert found["own"] == found["trials"][0]
    assert found["own"]["key"] == sweep.own.key
    assert found["own"]["settings"] == {"training.learning_rate": 1e-3}


def test_every_trial_is_the_cell_that_run_with_its_settings_would_be(sweep, tmp_path):
    found = sweep()
    assert set(sweep.records()) == {row["key"] for row in found["trials"]}
    for row in found["trials"]:
        cell = tiny_cell(tiny_suite(tmp_path, *sweep.overrides, *row["set"]), "gim")
        assert cell.key == row["key"]
        alone = run_cell(cell, sweep.bench, runs=RunsFolder(tmp_path / "alone"))
        record = sweep.records()[row["key"]]
        assert record.losses == alone.losses
        assert record.probe_curves == alone.probe_curves
        assert record.metrics["accuracy"] == alone.metrics["accuracy"]


def test_a_trial_is_worth_the_validation_accuracy_of_the_top_probes_best_rate(sweep):
    found = sweep()
    for row in found["trials"]:
        record = sweep.records()[row["key"]]
        curve = record.probe_curves["module_2"]
        assert row["validation_accuracy"] == max(accuracy for _, accuracy in curve)
    best = max(row["validation_accuracy"] for row in found["trials"])
    assert found["best"]["validation_accuracy"] == best > 0


def test_of_several_targets_the_mean_counts():
    curves = {
        "speaker/module_1": [[1e-3, 100.0]],
        "speaker/module_2": [[1e-3, 50.0], [1e-2, 60.0]],
        "phone/module_1": [[1e-3, 90.0]],
        "phone/module_2": [[1e-3, 20.0], [1e-2, 10.0]],
    }
    assert chosen_accuracy(curves) == 40.0


def test_among_equals_the_suites_own_is_the_best(sweep, monkeypatch):
    monkeypatch.setattr(pretraining, "chosen_accuracy", lambda curves: 50.0)
    found = sweep()
    assert found["best"] == found["own"]


def test_a_cell_that_is_done_is_read_from_its_record(sweep, monkeypatch):
    record = run_cell(sweep.own, sweep.bench, runs=sweep.runs)
    monkeypatch.setattr(pretraining, "run_cell", lambda *args, **kwargs: pytest.fail("run again"))
    found = sweep(trials=1)
    assert found["own"]["validation_accuracy"] == chosen_accuracy(record.probe_curves)
    assert sweep.mirrored == [record]


def test_more_trials_are_added_to_earlier_trials(sweep):
    first = sweep(trials=2)
    again = sweep(trials=3)
    assert again["trials"][:2] == first["trials"]
    assert len(again["trials"]) == len(sweep.mirrored) == 3
    assert sweep(trials=2) == again


def test_the_same_values_are_tried_once(tmp_path):
    """Many trials of two whole numbers make two cells."""
    sweep = Sweep(tmp_path, "training.epochs=1..2")
    found = sweep(trials=14)
    assert len(found["trials"]) == 14
    assert len(sweep.mirrored) == len(sweep.records()) == 2
    accuracies = {row["key"]: row["validation_accuracy"] for row in found["trials"]}
    assert all(row["validation_accuracy"] == accuracies[row["key"]] for row in found["trials"])


@pytest.mark.parametrize("trials", [None, 20])
def test_lists_of_choices_are_tried_in_every_combination_once(trials, tmp_path, monkeypatch):
    """Unless fewer trials are asked for; the suite's own combination is the first."""
    monkeypatch.setattr(pretraining, "TRIALS", 2)
    space = ("training.epochs=0,1", "training.learning_rate=1e-2,1e-3,1e-1")
    found = Sweep(tmp_path, *space)(trials=trials)
    settings = [tuple(row["settings"].values()) for row in found["trials"]]
    assert settings[0] == (1, 1e-3)
    assert sorted(settings) == [(e, rate) for e in (0, 1) for rate in (1e-3, 1e-2, 1e-1)]


def test_no_trial_of_a_grid_is_pruned(tmp_path, monkeypatch):
    monkeypatch.setattr(SharedStudy, "is_hopeless", lambda *_, **__: pytest.fail("asked"))
    sweep = Sweep(tmp_path, "training.learning_rate=1e-3,1e-2", overrides=["training.epochs=3"])
    assert [row["state"] for row in sweep()["trials"]] == ["complete"] * 2


def test_fewer_trials_than_a_grid_has_are_drawn_from_it(tmp_path):
    sweep = Sweep(tmp_path, "training.learning_rate=1e-4,1e-3,1e-2,1e-1")
    assert len(sweep(trials=2)["trials"]) == 2


def test_trials_drawn_from_a_grid_leave_none_of_its_rates_untried_later(tmp_path, monkeypatch):
    """Values that were drawn twice, and trials that were pruned, are no trials of the grid."""
    monkeypatch.setattr(studies, "_sampler", lambda *_: DrawsTheSuitesOwn())
    sweep = Sweep(tmp_path, "training.learning_rate=1e-4,1e-3,1e-2,1e-1")
    drawn = {row["key"] for row in sweep(trials=3)["trials"]}
    assert len(drawn) == 1
    found = sweep(trials=None)["trials"]
    assert {row["settings"]["training.learning_rate"] for row in found} == {1e-4, 1e-3, 1e-2, 1e-1}
    assert drawn < set(sweep.records()) == {row["key"] for row in found}


def test_a_rate_of_the_rows_own_varies_under_the_suites_name(tmp_path):
    """The row keeps its batch size, and a row without a rate of its own varies the suite's."""
    toml = TOML + "[method.gim.training]\nlearning_rate = 1e-2\nbatch_size = 10\n"
    suite = tiny_suite(tmp_path, toml=toml)
    sweep = Sweep(tmp_path, "training.learning_rate=1e-3,1e-2", toml=toml)
    sweep.plan = sweep.plan.of_row("gim", suite=suite)
    sweep.plan.check(sweep.own, sweep.bench)
    found = sweep()
    assert found["own"]["settings"] == {"training.learning_rate": 1e-2}
    assert {row["set"][0] for row in found["trials"]} == {
        f"method.gim.training.learning_rate={rate}" for rate in ("1e-3", "1e-2")
    }
    rates = {record.config["training"]["learning_rate"] for record in sweep.records().values()}
    assert rates == {1e-3, 1e-2}


def test_another_space_or_seed_is_another_study(tmp_path):
    other = Sweep(tmp_path)
    other.own = replace(other.own, seed=1)
    sweeps = [Sweep(tmp_path), Sweep(tmp_path, "training.epochs=1..2"), other]
    names = {sweep(trials=1)["study"] for sweep in sweeps}
    assert len(names) == 3
    assert len(list((tmp_path / "runs/tiny/gim").glob("space-*.json"))) == 3


def test_the_results_are_kept_beside_the_cells(sweep):
    found = sweep()
    (path,) = (sweep.runs.root / "tiny" / "gim").glob("space-*.json")
    assert json.loads(path.read_text()) == found
    assert found["space"] == {"training.learning_rate": "1e-4..1e-1"}


# -- trials that fail ------------------------------------------------------------------------------


@pytest.fixture
def diverging(tmp_path, monkeypatch):
    table = {**registry.methods(), **MISBEHAVING}
    monkeypatch.setattr(registry, "methods", lambda: table)
    return Sweep(tmp_path, method="diverging")


def test_a_cell_that_fails_is_a_trial_that_counts_and_is_listed_with_its_reason(diverging):
    found = diverging(trials=2)
    assert [row["state"] for row in found["trials"]] == ["failed", "failed"]
    assert all("the loss of module_2 is nan" in row["error"] for row in found["trials"])
    assert found["best"] is None
    assert {record.status for record in diverging.records().values()} == {Status.FAILED}
    assert len(diverging.trials(TrialState.FAIL)) == len(diverging.trials()) == 2
    shown = render_spaces([found], suite="tiny", as_json=False)
    assert "failed: the loss of module_2 is nan" in shown
    assert "best: no trial was completed" in shown


def test_a_trial_that_failed_is_not_tried_again(diverging):
    diverging(trials=2)
    assert diverging(trials=2)["trials"] == diverging(trials=2)["trials"]
    assert len(diverging.mirrored) == 2


def test_a_failed_trial_whose_cell_is_done_since_has_the_accuracy_of_the_cell(sweep, monkeypatch):
    """As after `run --set` with the trial's values: the reason may have passed."""
    with monkeypatch.context() as patch:
        patch.setattr(phases, "fit", lambda *_, **__: 1 / 0)
        (failed,) = sweep(trials=1)["trials"]
    assert (failed["state"], failed["validation_accuracy"]) == ("failed", None)
    record = run_cell(sweep.own, sweep.bench, runs=sweep.runs)
    found = sweep(trials=1)
    (row,) = found["trials"]
    assert (row["state"], row["error"]) == ("complete", None)
    assert row["validation_accuracy"] == chosen_accuracy(record.probe_curves)
    assert found["best"] == row


def test_a_full_disk_fails_no_trial(sweep, monkeypatch):
    """The settings are not to blame, and the same command tries them again."""
    save_encoder, fit = RunsFolder.save_encoder, []

    def full(*arguments, **names):
        fit.append(names)
        if len(fit) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save_encoder(*arguments, **names)

    monkeypatch.setattr(RunsFolder, "save_encoder", full)
    with pytest.raises(OSError, match=r"gim seed 0: cannot be written: .*No space left"):
        sweep()
    assert [row["state"] for row in sweep()["trials"]] == ["complete"] * 3


@pytest.mark.parametrize("change", ["edited", "removed"])
def test_a_suite_that_is_changed_meanwhile_ends_the_sweep_and_fails_no_trial(
    change, sweep, monkeypatch
):
    path = sweep.folder / "tiny.toml"

    def after_the_first(record):
        if change == "edited":
            path.write_text(TOML.replace("negatives = 4", "negatives = 5"))
        else:
            path.unlink()

    sweep.mirrored = SimpleNamespace(append=after_the_first)
    with pytest.raises(ConfigError, match=r"tiny\.toml"):
        sweep()
    assert len(sweep.trials(TrialState.COMPLETE)) == 1
    path.write_text(TOML)
    sweep.mirrored = []
    assert [row["state"] for row in sweep()["trials"]] == ["complete"] * 3


def test_settings_that_do_not_go_together_fail_and_nothing_is_trained(tmp_path):
    """Each goes with the suite's own of the other: a crop has 5 rows."""
    sweep = Sweep(tmp_path, "info_nce.prediction_steps=2,3", "info_nce.skip_rows=1,2")
    sweep.plan.check(sweep.own, sweep.bench)
    study = Studies(sweep.url).open("s", {})
    evaluation = pretraining._Evaluation(
        sweep.own, sweep.bench, runs=sweep.runs, study=study, plan=sweep.plan, mirror=pytest.fail
    )
    both = {"info_nce.prediction_steps": ("3",), "info_nce.skip_rows": ("2",)}
    space = {name: CategoricalDistribution(choice) for name, choice in both.items()}
    outcome = evaluation._outcome(optuna.create_study().ask(space))
    assert outcome.state is TrialState.FAIL
    assert "gives 5 rows in module_1" in outcome.attributes["error"]
    assert not sweep.records()


# -- pruning ---------------------------------------------------------------------------------------


def watched(folder, *overrides, method="gim", toml=TOML):
    """The record of a cell, and what its watch was told."""
    told = []
    suite = tiny_suite(folder, "probe.steps=40", *overrides, toml=toml)
    record = run_cell(
        tiny_cell(suite, method),
        tiny_bench(suite),
        runs=RunsFolder(folder / "runs"),
        watch=lambda epoch, accuracy: told.append((epoch, accuracy)),
    )
    assert record.status is Status.DONE, record.error
    return record, told


@pytest.mark.parametrize("method", ["gim", "supervised"])
def test_an_epochs_accuracy_is_that_of_a_cell_that_ends_with_it(tmp_path, method):
    _, told = watched(tmp_path, "training.epochs=3", method=method)
    assert [epoch for epoch, _ in told] == [1, 2]
    for epoch, accuracy in told:
        ended, _ = watched(tmp_path, f"training.epochs={epoch}", method=method)
        assert accuracy == chosen_accuracy(ended.probe_curves)


def test_a_cell_that_is_watched_comes_out_the_same(tmp_path):
    """But for memory, which its validation would have taken part in."""
    record, told = watched(tmp_path, "training.epochs=3")
    assert told
    suite = tiny_suite(tmp_path, "probe.steps=40", "training.epochs=3")
    alone = run_cell(tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "x"))
    assert record.losses == alone.losses
    assert record.probe_curves == alone.probe_curves
    unmeasured = set(alone.metrics) - set(record.metrics)
    assert unmeasured == {name for name in alone.metrics if name.startswith("memory/host")}
    assert "validated after every epoch" in record.provenance["memory"]["training"]["training"]


def test_modules_that_are_trained_in_turn_are_not_watched(tmp_path):
    """Until the last of them is trained, the top one is as random as it was."""
    _, told = watched(tmp_path, "training.epochs=3", "training.schedule=sequential")
    assert told == []


@pytest.mark.parametrize(("method", "epochs"), [("gim", [1]), ("supervised", [])])
def test_on_speech_a_cell_of_two_models_is_not_watched(tmp_path, method, epochs):
    with noise_registered():
        _, told = watched(tmp_path, "training.epochs=2", method=method, toml=SPEECH_TOML)
    assert [epoch for epoch, _ in told] == epochs


def test_of_a_cell_that_is_abandoned_nothing_is_left(tmp_path):
    def enough(epoch, accuracy):
        raise Abandoned

    suite = tiny_suite(tmp_path, "training.epochs=2")
    cell, runs = tiny_cell(suite, "gim"), RunsFolder(tmp_path / "runs")
    with pytest.raises(Abandoned):
        run_cell(cell, tiny_bench(suite), runs=runs, watch=enough)
    assert list((tmp_path / "runs/tiny/gim").iterdir()) == []


def test_a_pruned_trial_counts_and_leaves_no_record(tmp_path, monkeypatch):
    """The pruner gives up the second trial after its second epoch."""
    sweep = Sweep(tmp_path, overrides=["training.epochs=3"])
    is_hopeless = SharedStudy.is_hopeless

    def second(study, claimed, value, *, step):
        is_hopeless(study, claimed, value, step=step)
        return claimed.number == 1 and step == 2

    monkeypatch.setattr(SharedStudy, "is_hopeless", second)
    found = sweep(trials=3)
    assert [row["state"] for row in found["trials"]] == ["complete", "pruned", "complete"]
    pruned = found["trials"][1]
    assert pruned["key"] not in sweep.records()
    assert len(sweep.records()) == len(sweep.mirrored) == 2
    assert pruned["validation_accuracy"] is None
    assert [epoch for epoch, _ in pruned["by_epoch"]] == [1, 2]
    assert found["best"] != pruned
    shown = render_spaces([found], suite="tiny", as_json=False)
    assert f"pruned after epoch 2, at {pruned['by_epoch'][1][1]:.1f} %" in shown
    assert sweep(trials=3) == found


def told_by_epoch(study, claimed, *values):
    """After each epoch, whether the pruner gives the trial up."""
    return [study.is_hopeless(claimed, value, step=step) for step, value in enumerate(values, 1)]


def settle(study, evaluate, trials):
    study.complete(
        trials,
        lambda claimed: [evaluate(trial) for trial in claimed],
        points=[],
        space={"x": optuna.distributions.FloatDistribution(0, 1)},
        batch=1,
        advance=Silence().advance,
    )


@pytest.mark.parametrize(
    ("others", "values", "given_up"),
    [
        (4, (10.0, 44.0), [False, True]),
        (4, (10.0, 46.0), [False, False]),
        (3, (10.0, 10.0), [False, False]),
    ],
)
def test_a_trial_below_the_median_of_four_is_given_up_but_not_after_the_first_epoch(
    tmp_path, others, values, given_up
):
    """At the second epoch the others stand at 30, 40, 50 and 60; two of them have got there."""
    study = Studies(f"sqlite:///{tmp_path / 'x.db'}").open("s", {}, pruner=pretraining.pruner())
    at_second = iter((60.0, 50.0, 40.0, 30.0))
    answers = []

    def other(trial):
        value = next(at_second)
        study.is_hopeless(trial, 50.0, step=1)
        study.is_hopeless(trial, value, step=2)
        return pretraining.Outcome(value=value)

    def last(trial):
        answers.extend(told_by_epoch(study, trial, *values))
        return pretraining.Outcome(value=values[-1])

    settle(study, other, others)
    settle(study, last, others + 1)
    assert answers == given_up


def test_a_process_that_lost_its_trial_to_others_is_told_to_go_on(tmp_path):
    study = Studies(f"sqlite:///{tmp_path / 'x.db'}").open("s", {})
    answers = []

    def slow(trial):
        if not answers:
            study._give_back(study._trials(TrialState.RUNNING))
            answers.append(study.is_hopeless(trial, 1.0, step=1))
        return pretraining.Outcome(value=1.0)

    settle(study, slow, 2)
    assert answers == [False]
    assert len(study.settled()) == 2


def test_cells_of_a_suite_that_wants_processes_of_their_own_are_run_apart(sweep, monkeypatch):
    apart = []

    def run_apart(cell, bench, *, runs):
        apart.append(cell.key)
        return run_cell(cell, bench, runs=runs)

    monkeypatch.setattr(pretraining, "run_apart", run_apart)
    found = sweep(apart=True, trials=2)
    assert apart == [row["key"] for row in found["trials"]]


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "complaint"),
    [
        ("training.learning_rat=1e-4..1e-2", "no setting 'learning_rat' .*Did you mean"),
        ("training.learning_rate=-1.0..1.0", "training.learning_rate = -1.0"),
        ("training.epochs=1.5..3.5", "training.epochs = 1.5"),
        ("training.batch_size=20..64", "fewer than one batch of 64"),
        ("method.gim.nonsense=1,2", "no setting 'nonsense'"),
        ("training.batch_size=16,24", "the suite's own value for gim, 20, is not in it"),
    ],
)
def test_a_space_with_ends_that_are_no_cells_is_refused_before_anything_runs(
    tmp_path, space, complaint
):
    sweep = Sweep(tmp_path, space)
    with pytest.raises(ConfigError.__mro__[1], match=complaint):
        sweep.plan.check(sweep.own, sweep.bench)


OWN_RATE = "method.gim.training.learning_rate"


def test_a_setting_that_the_row_has_otherwise_is_varied_in_the_row(tmp_path):
    in_row = Sweep(tmp_path, f"{OWN_RATE}=1e-4..1e-1", overrides=[f"{OWN_RATE}=1e-2"])
    in_row.plan.check(in_row.own, in_row.bench)
    found = in_row(trials=2)
    assert found["own"]["settings"] == {OWN_RATE: 1e-2}
    assert len({row["key"] for row in found["trials"]}) == 2


def test_a_setting_that_changes_nothing_is_refused(tmp_path):
    """As the suite's rate, where the row has a rate of its own."""
    sweep = Sweep(tmp_path, RATES, overrides=[f"{OWN_RATE}=1e-2"])
    with pytest.raises(ConfigError, match="changes nothing for gim: leave gim out"):
        sweep.plan.check(sweep.own, sweep.bench)


def test_a_method_that_trains_nothing_is_refused(tmp_path):
    sweep = Sweep(tmp_path, method="random_init")
    with pytest.raises(ConfigError, match="random_init trains nothing"):
        sweep.plan.check(sweep.own, sweep.bench)


# -- interruptions, and several processes ----------------------------------------------------------


def test_an_interruption_gives_the_trial_back_and_the_same_sweep_goes_on(sweep, monkeypatch):
    calls = []

    def second_time(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_cell(*args, **kwargs)

    monkeypatch.setattr(pretraining, "run_cell", second_time)
    with pytest.raises(KeyboardInterrupt):
        sweep(trials=3)
    assert not sweep.trials(TrialState.RUNNING)
    found = sweep(trials=3)
    assert [row["trial"] for row in found["trials"]] == [1, 2, 3]
    assert len({row["key"] for row in found["trials"]}) == len(sweep.records()) == 3


def test_whoever_does_not_wait_leaves_the_trials_of_others(sweep):
    """One of three trials is another's; with the other gone, it is tried here."""
    studies = Studies(sweep.url)
    sweeps = [(sweep.own, sweep.plan)]

    def work_off():
        pretraining.work_off(
            sweeps, sweep.bench, runs=sweep.runs, studies=studies, mirror=sweep.mirrored.append
        )

    def unsettled():
        """Beside the cells at the two ends of the space, which are there as long as any is left."""
        return pretraining.unsettled(sweeps, sweep.bench, studies)[2:]

    assert unsettled() == [sweep.own] * 3
    study = pretraining._study(sweep.own, studies, plan=sweep.plan)
    (others,) = study._claim(
        3, space={axis.name: axis.distribution for axis in sweep.plan.axes}, batch=1
    )
    work_off()
    assert len(sweep.mirrored) == len(sweep.records()) == 2
    assert unsettled() == [sweep.own]
    study._give_back([t for t in study._trials(TrialState.RUNNING) if t.number == others.number])
    work_off()
    assert pretraining.unsettled(sweeps, sweep.bench, studies) == []
    assert len({record.key for record in sweep.mirrored}) == 3


def test_more_settled_trials_than_are_asked_for_leave_none_to_run(sweep):
    sweep(trials=2)
    fewer = replace(sweep.plan, trials=1)
    assert pretraining.unsettled([(sweep.own, fewer)], sweep.bench, Studies(sweep.url)) == []


def worker(folder, trials):
    options = (
        f"--suite tiny.toml --method gim --no-tracking --json --trials {trials} --space {RATES}"
    )
    others = "--set training.epochs=6 --set probe.steps=40 --no-tracking --json"
    return subprocess.Popen(
        [sys.executable, "-m", "gim_bench", "sweep", *options.split(), *others.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cells_begun(folder):
    return len(list(folder.glob("runs/tiny/gim/seed-*")))


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed_lose_no_trial_and_double_none(tmp_path):
    (tmp_path / "tiny.toml").write_text(TOML)
    killed, other = (worker(tmp_path, 8) for _ in range(2))
    while cells_begun(tmp_path) < 3:
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    out, err = other.communicate(timeout=1800)
    assert other.returncode == 0, err
    third, _ = worker(tmp_path, 8).communicate(timeout=1800)
    assert json.loads(third) == json.loads(out)
    (found,) = json.loads(out)
    assert len(found["trials"]) == len({row["key"] for row in found["trials"]}) == 8
    runs = {record.key: record.status for record in RunsFolder(tmp_path / "runs").records("tiny")}
    complete = {row["key"] for row in found["trials"] if row["state"] == "complete"}
    assert runs == dict.fromkeys(complete, Status.DONE)
