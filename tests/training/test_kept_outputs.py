"""Frozen outputs kept on disk: training on them is training without them, and nothing is lost."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gim_bench.contract import Images
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.errors import ConfigError, RoomError
from gim_bench.progress import Silence
from gim_bench.settings.augmentations import CropSettings
from gim_bench.settings.schema import Precision, Schedule
from gim_bench.training import kept_outputs
from gim_bench.training.kept_outputs import Keeper, identity_of
from gim_bench.training.loop import fit
from gim_bench.training.trainer import Trainer
from tests.conftest import CROP
from tests.listener import Listener
from tests.tiny_suite import CPU, Scripted

STEPS_PER_EPOCH, BATCH_SIZE = 3, 4
PATCHES = 49  # of an image


@pytest.fixture
def batches():
    """13 random images: three batches of four an epoch, and one image left over."""
    pixels = np.random.default_rng(0).integers(0, 256, (13, 1, CROP + 4, CROP + 4), dtype=np.uint8)
    return ImageBatches(
        Images(images=pixels, labels={"class": np.arange(13) % 3}),
        augmentation=CropSettings(kind="crop", crop=CROP, mean=(0.5,), std=(0.3,)),
        batch_size=BATCH_SIZE,
        stream=("random", 0),
        device=CPU,
    )


def keeper(folder, *, epochs=1, dtype=torch.float32, progress=None):
    progress = progress or Silence()
    return Keeper(folder=folder / "kept", epochs=epochs, dtype=dtype, progress=progress)


def trained(learner, batches, *, steps, precision=Precision.FP32, keeper=None):
    """The learner's weights after training in sequence, laid out as a cell's are."""
    learner.to(memory_format=torch.channels_last)
    trainer = Trainer(
        learner, learning_rate=1e-3, schedule=Schedule.SEQUENTIAL, precision=precision, device=CPU
    )
    fit(trainer, batches, steps=steps, title="training", progress=Silence(), keeper=keeper)
    return [parameter.detach().clone() for parameter in learner.parameters()]


def same(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


class Encoded:
    """A unit that doubles its inputs, and counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        return replace(batch, inputs=2 * batch.inputs.flatten(1), encoded_by="module_1")


# -- training on what was kept ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["gim", "greedy_supervised"])
def test_in_the_kept_epochs_training_is_bit_for_bit_as_if_nothing_were_kept(
    method, batches, tiny, tmp_path
):
    epochs = 2
    steps = epochs * STEPS_PER_EPOCH
    plain = trained(tiny(method).learner, batches, steps=steps)
    keeping = keeper(tmp_path, epochs=epochs)
    kept = trained(tiny(method).learner, batches, steps=steps, keeper=keeping)
    assert same(kept, plain)


def test_outputs_computed_in_bf16_lose_nothing_when_kept_in_bf16(batches, tiny, tmp_path):
    plain = trained(tiny("gim").learner, batches, steps=3, precision=Precision.BF16)
    kept = trained(
        tiny("gim").learner,
        batches,
        steps=3,
        precision=Precision.BF16,
        keeper=keeper(tmp_path, dtype=torch.bfloat16),
    )
    assert same(kept, plain)


def test_outputs_computed_in_fp32_are_rounded_when_kept_in_bf16(batches, tiny, tmp_path):
    plain = trained(tiny("gim").learner, batches, steps=3)
    kept = trained(
        tiny("gim").learner, batches, steps=3, keeper=keeper(tmp_path, dtype=torch.bfloat16)
    )
    assert not same(kept, plain)
    assert all(torch.allclose(a, b, atol=1e-2) for a, b in zip(kept, plain, strict=True))


def test_every_batch_goes_once_through_what_is_below_each_module(batches, tiny, tmp_path):
    learner = tiny("gim").learner
    patches = [0] * 3
    for m, stage in enumerate(learner.encoder.stages):

        def count(module, given, m=m):
            patches[m] += 0 if torch.is_grad_enabled() else len(given[0])

        stage[-1].register_forward_pre_hook(count)
    trained(learner, batches, steps=4 * STEPS_PER_EPOCH, keeper=keeper(tmp_path))
    assert {n % PATCHES for n in patches} == {0}
    epoch, sizes = BATCH_SIZE * STEPS_PER_EPOCH, BATCH_SIZE
    # How large outputs are is asked before, with one batch. Module 1 runs below module 2 as well.
    assert [n // PATCHES for n in patches] == [2 * (epoch + sizes), epoch + sizes, 0]


def test_nothing_is_left_on_the_disk_after_training(batches, tiny, tmp_path):
    trained(tiny("gim").learner, batches, steps=3, keeper=keeper(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_method_that_hands_nothing_on_is_refused_in_one_line(batches, tmp_path):
    with pytest.raises(ConfigError, match=r"^Scripted hands nothing .* training\.kept_outputs$"):
        trained(Scripted(), batches, steps=3, keeper=keeper(tmp_path))


# -- the epochs of what was kept -------------------------------------------------------------------


def kept(batches, folder, *, encode=None, **settings):
    return keeper(folder, **settings).keep(
        batches, encode or Encoded(), unit="module_1", identity="a" * 64
    )


def test_the_first_epochs_are_those_of_the_source_with_their_labels(batches, tmp_path):
    found = kept(batches, tmp_path, epochs=2)
    assert len(found) == STEPS_PER_EPOCH
    for number in (1, 2):
        for ours, theirs in zip(found.epoch(number), batches.epoch(number), strict=True):
            assert torch.equal(ours.inputs, 2 * theirs.inputs.flatten(1))
            assert torch.equal(ours.labels["class"], theirs.labels["class"])
            assert ours.encoded_by == "module_1"


def test_later_epochs_go_through_the_same_crops_again_in_a_new_order(batches, tmp_path):
    found = kept(batches, tmp_path, epochs=2)
    epochs = {
        number: torch.cat([batch.inputs for batch in found.epoch(number)])
        for number in (1, 2, 3, 5)
    }
    for number in (3, 5):
        assert not torch.equal(epochs[number], epochs[1])
        assert torch.equal(_sorted(epochs[number]), _sorted(epochs[1]))
    assert not torch.equal(epochs[3], epochs[5])
    assert not torch.equal(_sorted(epochs[1]), _sorted(epochs[2]))


def _sorted(rows):
    return torch.stack(sorted(rows, key=lambda row: row.tolist()))


def test_labels_stay_with_their_rows_in_a_new_order(batches, tmp_path):
    found = kept(batches, tmp_path)
    pairs = {
        tuple(row.tolist()): int(label)
        for batch in found.epoch(1)
        for row, label in zip(batch.inputs, batch.labels["class"], strict=True)
    }
    for batch in found.epoch(2):
        for row, label in zip(batch.inputs, batch.labels["class"], strict=True):
            assert pairs[tuple(row.tolist())] == int(label)


# -- interrupted, damaged --------------------------------------------------------------------------


class StoppingError(Exception):
    """What interrupts a write."""


def interrupted(batches, folder, *, after):
    """A write that was stopped after so many of its six batches."""
    whole = Encoded()

    def encode(batch):
        if whole.calls == after:
            raise StoppingError
        return whole(batch)

    with pytest.raises(StoppingError):
        kept(batches, folder, encode=encode, epochs=2)


def everything(found):
    return torch.cat([batch.inputs for number in (1, 2) for batch in found.epoch(number)])


def test_an_interrupted_write_goes_on_where_it_stopped(batches, tmp_path):
    interrupted(batches, tmp_path, after=4)
    encode = Encoded()
    found = kept(batches, tmp_path, encode=encode, epochs=2)
    assert encode.calls == 1 + 2  # the first tells the size; 2 to 4 are there
    assert torch.equal(everything(found), everything(kept(batches, tmp_path / "whole", epochs=2)))


@pytest.mark.parametrize("place", [0.3, 0.5, 0.99])
def test_an_altered_byte_is_noticed_and_its_batch_written_again(place, batches, tmp_path):
    found = everything(kept(batches, tmp_path, epochs=2))
    (path,) = (tmp_path / "kept").glob("*.outputs")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    encode = Encoded()
    assert torch.equal(everything(kept(batches, tmp_path, encode=encode, epochs=2)), found)
    assert encode.calls == 1 + 1


def test_a_file_that_was_cut_off_is_completed(batches, tmp_path):
    found = everything(kept(batches, tmp_path, epochs=2))
    (path,) = (tmp_path / "kept").glob("*.outputs")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 + 7)
    assert torch.equal(everything(kept(batches, tmp_path, epochs=2)), found)


def test_outputs_of_other_weights_are_not_taken_for_these(batches, tmp_path):
    keeper(tmp_path).keep(batches, Encoded(), unit="module_1", identity="b" * 64)
    encode = Encoded()
    kept(batches, tmp_path, encode=encode)
    assert encode.calls == STEPS_PER_EPOCH
    assert len(list((tmp_path / "kept").iterdir())) == 2  # the outputs and their checksums


def test_identity_changes_with_every_weight():
    weights = [torch.zeros(2, 3), torch.zeros(())]
    found = {identity_of(weights)}
    for m in range(2):
        other = [weight.clone() for weight in weights]
        other[m].view(-1)[-1] = 1e-30
        found.add(identity_of(other))
    assert len(found) == 3


# -- room on the disk ------------------------------------------------------------------------------


def test_the_size_is_said_before_anything_is_written(batches, tmp_path):
    heard = Listener()
    room = keeper(tmp_path, epochs=2, progress=heard)
    room.make_room(batches, {"module_1": Encoded(), "module_2": Encoded()})
    values = CROP**2 * BATCH_SIZE * STEPS_PER_EPOCH * 2
    size = f"{values * 4 / 1e9:,.2f} GB"
    at_most = size
    assert heard.lines == [
        f"keeping outputs of module_1 {size}, module_2 {size}, at most {at_most} at a time"
    ]
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_one_line_before_anything_is_trained(
    batches, tiny, tmp_path, monkeypatch
):
    full = SimpleNamespace(free=0)
    monkeypatch.setattr(kept_outputs.shutil, "disk_usage", lambda folder: full)
    learner = tiny("gim").learner
    before = [parameter.clone() for parameter in learner.parameters()]
    with pytest.raises(RoomError, match=r"room for 0\.00 GB: lower training\.kept_outputs"):
        trained(learner, batches, steps=3, keeper=keeper(tmp_path))
    assert same(before, learner.parameters())


def test_what_an_interrupted_write_left_counts_as_room(batches, tmp_path, monkeypatch):
    interrupted(batches, tmp_path, after=4)
    values = CROP**2 * BATCH_SIZE * STEPS_PER_EPOCH * 2
    missing = SimpleNamespace(free=values * 4 // 3)
    monkeypatch.setattr(kept_outputs.shutil, "disk_usage", lambda folder: missing)
    keeper(tmp_path, epochs=2).make_room(batches, {"module_1": Encoded()})
    missing.free -= 4 * CROP**2
    with pytest.raises(RoomError):
        keeper(tmp_path, epochs=2).make_room(batches, {"module_1": Encoded()})
