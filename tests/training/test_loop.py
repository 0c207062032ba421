"""The trainer: two schedules with the same gradients, and `fit`, which counts and checks."""

import time
import weakref

import numpy as np
import pytest
import torch

from gim_bench.contract import Images
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.errors import TrainingError
from gim_bench.progress import Silence
from gim_bench.settings.augmentations import CropSettings
from gim_bench.settings.schema import Precision, Schedule
from gim_bench.training import loop as training
from gim_bench.training.loop import fit
from gim_bench.training.trainer import Trainer
from tests.conftest import CROP
from tests.tiny_suite import CPU, Scripted
from tests.toys import Agreeing, toy_case

STEPS_PER_EPOCH = 3
BATCH_SIZE = 4


def trainer_of(learner, *, schedule=Schedule.INTERLEAVED, precision=Precision.FP32, rate=1e-3):
    return Trainer(learner, learning_rate=rate, schedule=schedule, precision=precision, device=CPU)


@pytest.fixture
def batches():
    """13 random images: three batches of four an epoch, and one image left over."""
    pixels = np.random.default_rng(0).integers(0, 256, (13, 1, CROP, CROP), dtype=np.uint8)
    return ImageBatches(
        Images(images=pixels, labels={"class": np.arange(13) % 3}),
        augmentation=CropSettings(kind="crop", crop=CROP, mean=(0.5,), std=(0.3,)),
        batch_size=BATCH_SIZE,
        stream=("random", 0),
        device=CPU,
    )


def fitted(trainer, batches, *, steps, progress=None):
    return fit(trainer, batches, steps=steps, title="training", progress=progress or Silence())


class Listener(Silence):
    """Keeps every advance."""

    def __init__(self):
        self.totals, self.advances = [], []

    def task(self, title, *, total, unit):
        self.totals.append(total)
        return self

    def advance(self, steps=1, **facts):
        self.advances.append((steps, facts))


# -- one step --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gim", "greedy_supervised", "cpc", "supervised"])
def test_joint_and_interleaved_leave_the_same_weights_after_three_steps(method, tiny, tiny_batch):
    weights = []
    for schedule in (Schedule.JOINT, Schedule.INTERLEAVED):
        learner = tiny(method).learner
        trainer = trainer_of(learner, schedule=schedule)
        for _ in range(3):
            trainer.step(tiny_batch)
        weights.append(learner.state_dict())
    joint, interleaved = weights
    for name in joint:
        torch.testing.assert_close(joint[name], interleaved[name], rtol=0, atol=0)


@pytest.mark.parametrize("schedule", Schedule)
def test_a_step_is_adam_on_each_unit(schedule, tiny_batch):
    """Against torch's Adam by hand on loss = weight · script, whose gradient is the script."""
    learner = Scripted(lambda unit, step: step if unit == "module_1" else -0.5 * step)
    trainer = trainer_of(learner, schedule=schedule, rate=0.1)
    weights = {unit: torch.ones((), requires_grad=True) for unit in ("module_1", "module_2")}
    adam = torch.optim.Adam(weights.values(), lr=0.1)
    for step in (1, 2, 3):
        trainer.step(tiny_batch)
        weights["module_1"].grad = torch.tensor(float(step))
        weights["module_2"].grad = torch.tensor(-0.5 * step)
        adam.step()
    for unit, weight in weights.items():
        assert learner.weights[unit].item() == pytest.approx(weight.item(), rel=1e-6)


@pytest.mark.parametrize("schedule", Schedule)
def test_gradients_do_not_add_up_over_steps(schedule, tiny, tiny_batch):
    learner = tiny("gim").learner
    trainer_of(learner, schedule=schedule).step(tiny_batch)
    assert all(parameter.grad is None for parameter in learner.parameters())


@pytest.mark.parametrize("schedule", Schedule)
def test_the_losses_of_a_step_are_those_before_it_and_hold_no_graph(schedule, tiny_batch):
    learner = Scripted(lambda unit, step: 3.0)
    losses = trainer_of(learner, schedule=schedule, rate=0.5).step(tiny_batch)
    assert {unit: loss.item() for unit, loss in losses.items()} == {
        "module_1": 3.0,
        "module_2": 3.0,
    }
    assert not any(loss.requires_grad for loss in losses.values())


class _Saved:
    """A tensor that autograd keeps for the backward pass; it goes when autograd lets go."""

    def __init__(self, tensor):
        self.tensor = tensor


def _kept_for_backward(learner, batch, *, schedule):
    """How many tensors autograd holds each time the learner is asked to go on."""
    alive, counts = weakref.WeakSet(), []
    losses_of = learner.losses

    def losses(batch):
        for item in losses_of(batch):
            yield item
            counts.append(len(alive))

    def pack(tensor):
        saved = _Saved(tensor)
        alive.add(saved)
        return saved

    learner.losses = losses
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        trainer_of(learner, schedule=schedule).step(batch)
    return counts


def test_interleaved_keeps_no_activations_of_a_module_when_the_next_one_starts(tiny, tiny_batch):
    learner = tiny("gim").learner
    assert _kept_for_backward(learner, tiny_batch, schedule=Schedule.INTERLEAVED) == [0, 0, 0]


def test_interleaved_keeps_no_activations_of_either_view_when_the_next_module_starts():
    case = toy_case(Agreeing)
    learner, batch = case.build(dtype=torch.float32).learner, case.batch(dtype=torch.float32)
    assert _kept_for_backward(learner, batch, schedule=Schedule.INTERLEAVED) == [0, 0]


def test_joint_keeps_the_activations_of_all_modules_until_the_end(tiny, tiny_batch):
    learner = tiny("gim").learner
    first, second, third = _kept_for_backward(learner, tiny_batch, schedule=Schedule.JOINT)
    assert 0 < first < second < third


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP32])
@pytest.mark.parametrize("schedule", Schedule)
def test_autocast_covers_the_forwards_and_nothing_else(schedule, precision, tiny_batch):
    seen = {"forward": [], "backward": [], "after": []}
    learner = Scripted()

    def losses(batch):
        for unit, weight in learner.weights.items():
            seen["forward"].append(torch.is_autocast_enabled("cpu"))
            loss = weight * 2.0
            loss.register_hook(lambda _: seen["backward"].append(torch.is_autocast_enabled("cpu")))
            yield unit, loss

    learner.losses = losses
    trainer = trainer_of(learner, schedule=schedule, precision=precision)
    update = trainer._update
    trainer._update = lambda unit: (
        seen["after"].append(torch.is_autocast_enabled("cpu")),
        update(unit),
    )
    trainer.step(tiny_batch)
    assert seen["forward"] == [precision is Precision.BF16] * 2
    assert seen["backward"] == seen["after"] == [False] * 2
    assert not torch.is_autocast_enabled("cpu")


# -- fit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8])
def test_fit_stops_at_the_very_step_even_in_mid_epoch(steps, batches):
    learner = Scripted()
    trained = fitted(trainer_of(learner), batches, steps=steps)
    assert learner.step == trained.steps == steps
    assert trained.samples == steps * BATCH_SIZE
    epochs = -(-steps // STEPS_PER_EPOCH)
    assert [row["epoch"] for row in trained.losses] == list(range(1, epochs + 1))


@pytest.mark.parametrize("read_every", [-1.0, 1000.0], ids=["read always", "read at the end"])
def test_an_epochs_loss_is_the_mean_over_its_steps(read_every, batches, tiny, monkeypatch):
    """Seven steps: two whole epochs of three, and one step of the next."""
    monkeypatch.setattr(training, "READ_EVERY_SECONDS", read_every)
    trainer = trainer_of(tiny("gim").learner)
    by_step = []
    step = trainer.step
    trainer.step = lambda batch, only: by_step.append(step(batch)) or by_step[-1]
    trained = fitted(trainer, batches, steps=7)
    for row, steps in zip(trained.losses, (by_step[:3], by_step[3:6], by_step[6:]), strict=True):
        for unit in ("module_1", "module_2", "module_3"):
            mean = sum(float(losses[unit]) for losses in steps) / len(steps)
            assert row[unit] == pytest.approx(mean, rel=1e-6)


def test_the_same_seed_gives_the_same_losses_bit_for_bit(batches, tiny):
    first, second = (
        fitted(trainer_of(tiny("gim", seed=3).learner), batches, steps=4).losses for _ in range(2)
    )
    assert first == second


def test_another_seed_gives_other_losses(batches, tiny):
    first, second = (
        fitted(trainer_of(tiny("gim", seed=seed).learner), batches, steps=1).losses
        for seed in (0, 1)
    )
    assert first != second


def test_epochs_are_numbered_on_and_see_the_images_in_another_order(batches):
    asked = []
    epoch = batches.epoch
    batches.epoch = lambda number: asked.append(number) or epoch(number)
    fitted(trainer_of(Scripted()), batches, steps=7)
    assert asked == [1, 2, 3]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_ends_training_naming_unit_and_step(value, batches, monkeypatch):
    monkeypatch.setattr(training, "READ_EVERY_SECONDS", -1.0)
    learner = Scripted(lambda unit, step: value if (unit, step) == ("module_2", 5) else 1.0)
    with pytest.raises(TrainingError, match=r"module_2 is -?(nan|inf) .*step 5 \(epoch 2\)"):
        fitted(trainer_of(learner), batches, steps=9)
    assert learner.step == 5


def test_a_loss_that_is_read_late_is_noticed_before_the_epoch_ends(batches, monkeypatch):
    """Losses are read now and then; at the latest, when the epoch is closed."""
    monkeypatch.setattr(training, "READ_EVERY_SECONDS", 1e9)
    learner = Scripted(lambda unit, step: float("nan") if step == 2 else 1.0)
    with pytest.raises(TrainingError, match=r"module_1 is nan at or shortly before step 3"):
        fitted(trainer_of(learner), batches, steps=9)
    assert learner.step == STEPS_PER_EPOCH


def test_progress_hears_of_every_step_and_of_the_losses(batches):
    listener = Listener()
    fitted(trainer_of(Scripted()), batches, steps=4, progress=listener)
    assert listener.totals == [4]
    assert [steps for steps, _ in listener.advances] == [1, 1, 1, 1]
    assert [facts["epoch"] for _, facts in listener.advances] == [1, 1, 1, 2]
    assert listener.advances[0][1].keys() >= {"module_1", "module_2"}


# -- one module after the other --------------------------------------------------------------------


def test_in_sequence_every_unit_takes_as_many_steps_on_the_same_epochs(batches, tiny):
    learner = tiny("gim").learner
    trainer = trainer_of(learner, schedule=Schedule.SEQUENTIAL)
    seen = []
    step = trainer.step
    trainer.step = lambda batch, only: (
        seen.append((only, batch.inputs.sum().item())) or step(batch, only=only)
    )
    trained = fitted(trainer, batches, steps=4)
    assert [unit for unit, _ in seen] == ["module_1"] * 4 + ["module_2"] * 4 + ["module_3"] * 4
    inputs = [total for _, total in seen]
    assert inputs[:4] == inputs[4:8] == inputs[8:]
    assert (trained.steps, trained.samples) == (12, 12 * BATCH_SIZE)
    assert [sorted(row) for row in trained.losses] == [
        ["epoch", "module_1", "module_2", "module_3"]
    ] * 2


def test_in_sequence_a_module_is_never_touched_again_once_it_is_finished(batches, tiny):
    learner = tiny("gim").learner
    trainer = trainer_of(learner, schedule=Schedule.SEQUENTIAL)
    weights = {}
    freeze = trainer.freeze
    trainer.freeze = lambda unit: (
        weights.update({unit: [p.clone() for p in learner.units()[unit]]}),
        freeze(unit),
    )
    fitted(trainer, batches, steps=3)
    assert list(weights) == ["module_1", "module_2", "module_3"]
    for unit, finished in weights.items():
        assert all(
            torch.equal(p, then) for p, then in zip(learner.units()[unit], finished, strict=True)
        )


def test_a_frozen_unit_s_optimiser_holds_nothing(batches, tiny):
    trainer = trainer_of(tiny("gim").learner, schedule=Schedule.SEQUENTIAL)
    fitted(trainer, batches, steps=2)
    assert not any(optimiser.state for optimiser in trainer.optimisers.values())


def test_in_sequence_nothing_of_the_modules_below_is_kept_for_the_backward_pass(tiny, tiny_batch):
    """What sequential training saves, and what the released code's "train one module" does not."""
    learner = tiny("gim").learner
    alone = [
        _bytes_kept(learner, tiny_batch, only=unit) for unit in ("module_1", "module_2", "module_3")
    ]
    assert max(alone) < _bytes_kept(learner, tiny_batch) / 2


def _bytes_kept(learner, batch, **which):
    """By autograd, for the backward pass; without the parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in learner.parameters()}
    sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = list(learner.losses(batch, **which))
    assert losses
    return sum(sizes.values())


# -- what is held out ------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", Schedule)
def test_the_loss_of_what_is_held_out_stands_beside_every_epoch(schedule, tiny):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 1, CROP, CROP), dtype=np.uint8)
    loader = ImageBatches(
        Images(images=pixels, labels={}),
        augmentation=CropSettings(kind="crop", crop=CROP, mean=(0.5,), std=(0.3,)),
        batch_size=BATCH_SIZE,
        stream=("random", 0),
        device=CPU,
        held_out=5 / 13,
    )
    trainer = trainer_of(tiny("gim").learner, schedule=schedule)
    trained = fitted(trainer, loader, steps=4)
    units = ["module_1", "module_2", "module_3"]
    for row in trained.losses:
        assert set(row) == {"epoch", *units, *(f"validation_{unit}" for unit in units)}


def test_evaluating_teaches_nothing_and_keeps_no_graph(tiny, tiny_batch):
    learner = tiny("gim").learner
    before = [p.clone() for p in learner.parameters()]
    trainer = trainer_of(learner)
    found = trainer.evaluate([tiny_batch, tiny_batch])
    assert all(isinstance(loss, float) for loss in found.values())
    assert list(found) == ["module_1", "module_2", "module_3"]
    assert all(torch.equal(p, then) for p, then in zip(learner.parameters(), before, strict=True))
    assert not any(optimiser.state for optimiser in trainer.optimisers.values())
    assert trainer.evaluate([]) == {}


def test_an_evaluated_loss_is_the_mean_over_its_batches(tiny_batch):
    learner = Scripted(lambda unit, step: float(step))
    found = trainer_of(learner).evaluate([tiny_batch] * 3)
    assert found == {"module_1": 2.0, "module_2": 2.0}


# -- after every epoch -----------------------------------------------------------------------------


def test_every_epoch_but_the_last_is_told_and_what_is_done_then_takes_no_time(batches):
    told, spent = [], []

    def on_epoch(epoch):
        began = time.perf_counter()
        told.append(epoch)
        time.sleep(0.3)
        spent.append(time.perf_counter() - began)

    trainer = trainer_of(Scripted())
    steps = 3 * STEPS_PER_EPOCH
    began = time.perf_counter()
    trained = fit(trainer, batches, steps=steps, title="t", progress=Silence(), on_epoch=on_epoch)
    whole = time.perf_counter() - began
    assert told == [1, 2]
    assert trained.seconds <= whole - sum(spent)


def test_an_epoch_that_the_budget_cuts_off_is_not_told(batches):
    told = []
    trainer = trainer_of(Scripted())
    steps = STEPS_PER_EPOCH + 1
    fit(trainer, batches, steps=steps, title="t", progress=Silence(), on_epoch=told.append)
    assert told == [1]
