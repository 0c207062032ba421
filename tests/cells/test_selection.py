"""Methods that learn from labels choose their probes' hyperparameters on unseen examples."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from baselines.supervised import Supervised
from gim_bench import registry
from gim_bench.cells import phases, selection
from gim_bench.cells.run import run_cell
from gim_bench.contract import Images, Split, Target
from gim_bench.datasets.images.photos import Photos
from gim_bench.probing.probe import choose, chosen_accuracy, question, validation_items
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from gim_bench.training.loop import fit
from tests.cells.test_run import Stopped
from tests.tiny_suite import SPEECH_TOML, noise_registered, tiny_bench, tiny_cell, tiny_suite

UNSEEN = "probe.unseen_validation=true"
SMALL = "training.batch_size=10"  # a batch is left without the validation images


@pytest.fixture
def runs(tmp_path):
    return RunsFolder(tmp_path / "runs")


@pytest.fixture
def visits(monkeypatch):
    """The items that each training visits, in every epoch that the training begins."""
    found = []
    augmented = {}

    def spied(trainer, batches, **options):
        visited: set[int] = set()
        kind = type(batches)
        augment = augmented.setdefault(kind, kind._augmented)

        def recorded(self, chosen, streams):
            visited.update(chosen.tolist())
            return augment(self, chosen, streams)

        found.append(visited)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "_augmented", recorded)
            return fit(trainer, batches, **options)

    monkeypatch.setattr(phases, "fit", spied)
    return found


def unseen(folder, *overrides, method="supervised"):
    """A suite that selects on unseen examples, with a cell of the method."""
    suite = tiny_suite(folder, UNSEEN, SMALL, *overrides)
    return suite, tiny_cell(suite, method)


def items_of_validation(cell, bench):
    train = bench.batches(cell, Split.TRAIN)
    return validation_items(train, bench.targets, settings=cell.config.probe).tolist()


# -- what each training sees -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["supervised", "greedy_supervised", "predsim"])
def test_validation_and_training_of_supervised_encoders_are_disjoint_during_selection(
    method, tmp_path, runs, visits
):
    """The first training visits all but the validation images, the second visits these, too."""
    suite, cell = unseen(tmp_path, "training.epochs=6", method=method)
    bench = tiny_bench(suite)
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.DONE, record.error
    validating = set(items_of_validation(cell, bench))
    assert validating
    first, second = visits
    assert first.isdisjoint(validating)
    assert first | validating == second == set(range(32))


def test_recordings_are_left_out_as_a_whole_for_each_target(tmp_path, runs, visits):
    with noise_registered():
        suite = tiny_suite(tmp_path, UNSEEN, "training.epochs=6", toml=SPEECH_TOML)
        cell, bench = tiny_cell(suite, "supervised"), tiny_bench(suite)
        record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.DONE, record.error
    train = bench.batches(cell, Split.TRAIN)
    for target, (first, second) in zip(bench.targets, (visits[:2], visits[2:]), strict=True):
        validating = validation_items(train, [target], settings=cell.config.probe).tolist()
        assert first.isdisjoint(validating)
        assert second.issuperset(validating)


@pytest.mark.parametrize(
    ("method", "override"), [("gim", UNSEEN), ("supervised", "probe.unseen_validation=false")]
)
def test_one_training_serves_where_no_label_is_seen_or_no_unseen_example_is_asked_for(
    method, override, tmp_path, runs, visits
):
    _, cell = unseen(tmp_path, override, method=method)
    record = run_cell(cell, tiny_bench(tiny_suite(tmp_path)), runs=runs)
    assert record.status is Status.DONE, record.error
    assert len(visits) == 1
    assert "selection/seconds" not in record.metrics


def test_without_a_batch_beside_the_validation_examples_the_cell_fails_in_one_line(tmp_path, runs):
    suite, cell = unseen(tmp_path, "training.batch_size=30")
    record = run_cell(cell, tiny_bench(suite), runs=runs)
    assert record.status is Status.FAILED
    assert "without 6 of 32 images, which validate or whose labels are not used" in record.error
    assert "fewer than one batch of 30 are left: lower training.batch_size, " in record.error
    assert "or set probe.unseen_validation=false" in record.error


@pytest.mark.parametrize("unseen_validation", [True, False])
def test_few_labels_are_few_for_supervised_encoders_too(unseen_validation, tmp_path, runs, visits):
    """A row with all labels would be no row of the low-shot table."""
    few = ("probe.labelled_fraction=0.5", "training.epochs=6", "training.batch_size=4")
    suite, cell = unseen(
        tmp_path, *few, f"probe.unseen_validation={str(unseen_validation).lower()}"
    )
    bench = tiny_bench(suite)
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.DONE, record.error
    train = bench.batches(cell, Split.TRAIN)
    asked = question(train, bench.targets[0], settings=cell.config.probe)
    assert visits[-1] == set(asked.items.tolist())
    assert len(asked.items) == record.metrics["train/labels"] == 16
    if unseen_validation:
        assert visits[0] == set(asked.items.tolist()) - set(asked.validation_items.tolist())


def test_models_of_few_labels_take_the_same_steps_in_epochs_of_their_own(tmp_path, runs):
    """A quarter of the labels is one batch an epoch for the speakers, and two for the phones."""
    few = ("probe.labelled_fraction=0.25", "training.epochs=2", "training.batch_size=2")
    with noise_registered():
        suite = tiny_suite(tmp_path, *few, toml=SPEECH_TOML)
        record = run_cell(tiny_cell(suite, "supervised"), tiny_bench(suite), runs=runs)
    assert record.status is Status.DONE, record.error
    assert [row["epoch"] for row in record.losses] == [1, 2, 3, 4, 5, 6, 7, 8]
    speaker, phone = "speaker_module_6", "phone_module_6"
    assert [phone in row for row in record.losses] == [True] * 4 + [False] * 4
    assert record.metrics["speaker_loss"] == record.losses[7][speaker]
    assert record.metrics["phone_loss"] == record.losses[3][phone]
    header, *_, last = (runs.folder_of(record) / "losses.csv").read_text().splitlines()
    assert header == f"epoch,{speaker},{phone}"
    assert last == f"8,{record.losses[7][speaker]},"


@pytest.mark.parametrize("method", ["gim", "random_init"])
def test_few_labels_take_no_image_from_methods_without_labels(method, tmp_path, runs):
    few, all_ = (
        run_cell(cell, tiny_bench(suite), runs=runs)
        for suite, cell in (
            unseen(tmp_path, f"probe.labelled_fraction={share}", method=method)
            for share in (0.5, 1.0)
        )
    )
    assert few.losses == all_.losses
    read = [{n: x for n, x in cell.metrics.items() if "accuracy" in n} for cell in (few, all_)]
    assert read[0] != read[1]  # of every probe and module: one of them may agree by chance


# -- what the record holds -------------------------------------------------------------------------


def test_the_second_training_is_the_one_that_the_record_describes(tmp_path, runs):
    """Losses, weights and counts are those of a cell without selection, bit for bit."""
    suite, cell = unseen(tmp_path, "training.epochs=2")
    record = run_cell(cell, tiny_bench(suite), runs=runs)
    plain_suite = tiny_suite(tmp_path, SMALL, "training.epochs=2")
    plain = run_cell(tiny_cell(plain_suite, "supervised"), tiny_bench(plain_suite), runs=runs)
    assert record.losses == plain.losses
    one, other = (load_file(runs.folder_of(r) / "encoder.safetensors") for r in (record, plain))
    assert all(torch.equal(one[name], other[name]) for name in one)
    counts = {
        "train/steps",
        "train/samples",
        "train/labels",
        "train/operations",
        "train/parameters",
    }
    assert {n: record.metrics[n] for n in counts} == {n: plain.metrics[n] for n in counts}
    assert record.metrics.keys() - plain.metrics.keys() == {"selection/seconds"}
    assert record.metrics["selection/seconds"] > 0
    one, other = ({path.name for path in runs.folder_of(r).iterdir()} for r in (record, plain))
    assert one - other == {"selection_encoder.safetensors"}, "of which other protocols are chosen"


def test_the_probes_have_the_hyperparameters_of_the_selection(tmp_path, runs, monkeypatch):
    """Its curves stand in the record, and another choice gives other predictions."""
    suite, cell = unseen(tmp_path, "probe.steps=40")
    accuracies = []
    for best in (0, 1):

        def forced(learner, *, best=best, **options):
            found = choose(learner, **options)
            return {place: replace(c, linear=c.tried[best]) for place, c in found.items()}

        monkeypatch.setattr(selection, "choose", forced)
        record = run_cell(cell, tiny_bench(suite), runs=RunsFolder(tmp_path / str(best)))
        accuracies.append(record.metrics["accuracy"])
    assert set(record.probe_curves) == {"module_1", "module_2"}
    assert accuracies[0] != accuracies[1]


def test_nothing_of_the_first_training_is_kept_while_the_second_one_runs(
    tmp_path, runs, monkeypatch
):
    """Or the peak of memory would hold the weights of both."""
    seen, alive = weakref.WeakSet(), []

    def watched(trainer, *arguments, **options):
        alive.append(len(seen))
        for parameter in trainer.learner.parameters():
            seen.add(parameter)
        return fit(trainer, *arguments, **options)

    monkeypatch.setattr(phases, "fit", watched)
    suite, cell = unseen(tmp_path)
    run_cell(cell, tiny_bench(suite), runs=runs)
    assert alive == [0, 0]


# -- interruptions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "resumed_at"),
    [(3, None), (8, [2])],
    ids=["in the first training", "in the second training"],
)
def test_an_interruption_in_either_training_resumes_where_it_was(
    step, resumed_at, tmp_path, monkeypatch
):
    """Six steps each; a selection that is done is not made again."""
    suite, cell = unseen(tmp_path, "training.epochs=2")
    runs, selections = RunsFolder(tmp_path / "runs"), 1 if resumed_at is None else 0
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, tiny_bench(suite, progress=Stopped(step)), runs=runs)
    chosen = []
    monkeypatch.setattr(
        selection, "choose", lambda *given, **named: chosen.append(1) or choose(*given, **named)
    )
    resumed = run_cell(cell, tiny_bench(suite), runs=runs)
    assert resumed.status is Status.DONE, resumed.error
    whole = run_cell(cell, tiny_bench(suite), runs=RunsFolder(tmp_path / "others"))
    assert len(chosen) == selections + 1
    assert (resumed.losses, resumed.probe_curves) == (whole.losses, whole.probe_curves)
    assert resumed.metrics["accuracy"] == whole.metrics["accuracy"]
    assert resumed.provenance.get("resumed_at_step") == resumed_at
    assert not list(runs.root.glob("**/checkpoint*"))


def test_the_first_training_resumes_from_its_own_checkpoint(tmp_path, runs, monkeypatch):
    suite, cell = unseen(tmp_path, "training.epochs=2")
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, tiny_bench(suite, progress=Stopped(3)), runs=runs)
    resumed = []

    def spied(*given, **named):
        trained = fit(*given, **named)
        resumed.append(trained.resumed_at)
        return trained

    monkeypatch.setattr(phases, "fit", spied)
    run_cell(cell, tiny_bench(suite), runs=runs)
    assert resumed == [3, None]


def test_kept_outputs_of_both_trainings_lie_apart_and_are_removed(tmp_path, runs, monkeypatch):
    suite, cell = unseen(
        tmp_path, "training.kept_outputs.epochs=1", "training.schedule=sequential",
        method="greedy_supervised",
    )  # fmt: skip
    folders = []
    keeper = phases.keeper_of

    def spied(*given, **named):
        found = keeper(*given, **named)
        folders.append(found.folder)
        return found

    monkeypatch.setattr(phases, "keeper_of", spied)
    record = run_cell(cell, tiny_bench(suite), runs=runs)
    assert record.status is Status.DONE, record.error
    assert len(set(folders)) == 2
    assert not any(folder.exists() for folder in folders)


# -- watching --------------------------------------------------------------------------------------


def test_the_watched_training_is_the_one_whose_validation_is_unseen(tmp_path, runs):
    """The other is measured as always."""
    suite, cell = unseen(tmp_path, "training.epochs=2")
    told = []
    record = run_cell(
        cell, tiny_bench(suite), runs=runs, watch=lambda epoch, accuracy: told.append(epoch)
    )
    assert told == [1, 2]  # of 2 steps each; the third ends with the sixth step
    assert "memory/host_peak_bytes" in record.metrics


# -- the effect ------------------------------------------------------------------------------------


CLASSES, PER_CLASS = ("a", "b", "c", "d"), 25


class RandomLabels(Photos):
    """Images of noise with random labels: whatever is learnt from them is learnt by heart."""

    def targets(self):
        return [Target(name="class", classes=CLASSES)]

    def split(self, split):
        size = {Split.TRAIN: len(CLASSES) * PER_CLASS, Split.TEST: 400}.get(split, 40)
        draw = np.random.default_rng(list(Split).index(split))
        return Images(
            images=draw.integers(256, size=(size, 1, 24, 24), dtype=np.uint8),
            labels={"class": draw.permutation(np.arange(size) % len(CLASSES))},
        )


class ByHeart(Supervised):
    """Its features are the labels of the images that it was trained on, and noise of others."""

    def __init__(self, ingredients):
        super().__init__(ingredients)
        self.known = {}

    def losses(self, batch, *, only=None):
        self.known |= dict(zip(self.names(batch.inputs), batch.labels["class"], strict=True))
        yield from super().losses(batch, only=only)

    def features(self, inputs):
        labels = [self.known.get(name) for name in self.names(inputs)]
        noise = inputs.flatten(1)[:, : len(CLASSES)]
        rows = [
            row if label is None else F.one_hot(label, len(CLASSES)).float()
            for label, row in zip(labels, noise, strict=True)
        ]
        return {module: torch.stack(rows).unsqueeze(1) for module in ("module_1", "module_2")}

    def predict(self, features):
        return None

    @staticmethod
    def names(inputs):
        return [each.numpy().tobytes() for each in inputs]


def validation_less_test(folder, *overrides, method):
    suite, cell = unseen(
        folder, "augmentation.flip=false", "probe.validation_fraction=0.5", "probe.steps=100",
        *overrides, method=method,
    )  # fmt: skip
    bench = tiny_bench(suite)
    bench.dataset = RandomLabels(
        options=bench.dataset.options, data_dir=None, cache_dir=folder / "unused"
    )
    record = run_cell(cell, bench, runs=RunsFolder(folder / "runs"))
    assert record.status is Status.DONE, record.error
    return chosen_accuracy(record.probe_curves) - record.metrics["accuracy"]


def test_labels_learnt_by_heart_do_not_show_in_the_validation(tmp_path, monkeypatch):
    """25 labels a class, 50 images of 4 classes to validate: a standard deviation is 6 points."""
    table = {**registry.methods(), "by_heart": "tests.cells.test_selection:ByHeart"}
    monkeypatch.setattr(registry, "methods", lambda: table)
    seen = validation_less_test(tmp_path, "probe.unseen_validation=false", method="by_heart")
    fair = validation_less_test(tmp_path, method="by_heart")
    untrained = validation_less_test(tmp_path, method="random_init")
    assert seen > 60
    assert abs(fair - untrained) < 18
