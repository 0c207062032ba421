"""A training that is interrupted, at any step, ends as if it had never been."""

import os
import signal

import numpy as np
import pytest
import torch

from gim_bench.contract import Images
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.progress import Silence
from gim_bench.settings.augmentations import CropSettings
from gim_bench.settings.schema import Precision, Schedule
from gim_bench.system.interrupts import Interrupted
from gim_bench.training import checkpoints as module
from gim_bench.training.checkpoints import Checkpoints
from gim_bench.training.kept_outputs import Keeper
from gim_bench.training.loop import fit
from gim_bench.training.trainer import Trainer
from tests.conftest import CROP
from tests.listener import Listener
from tests.tiny_suite import CPU

STEPS = 8  # of three an epoch: two whole ones, and two of the third


@pytest.fixture
def batches():
    """17 random images, of which 4 are held out: three batches of four an epoch."""
    pixels = np.random.default_rng(0).integers(0, 256, (17, 1, CROP + 4, CROP + 4), dtype=np.uint8)
    return ImageBatches(
        Images(images=pixels, labels={}),
        augmentation=CropSettings(kind="crop", crop=CROP, mean=(0.5,), std=(0.3,)),
        batch_size=4,
        stream=("random", 0),
        device=CPU,
        held_out=4 / 17,
    )


class Signalling(Silence):
    """Sends a signal to this process in the step of that number, counted over all stages."""

    def __init__(self, step, number=signal.SIGINT):
        self.left, self.number = step, number

    def advance(self, steps=1, **facts):
        self.left -= steps
        if self.left == 0:
            os.kill(os.getpid(), self.number)


class KilledError(BaseException):
    """Stands for SIGKILL: nothing more is done."""


class Killing(Silence):
    def __init__(self, step):
        self.left = step

    def advance(self, steps=1, **facts):
        self.left -= steps
        if self.left == 0:
            raise KilledError


def always(folder, progress=None):
    """A checkpoint after every step."""
    return Checkpoints(
        folder, made_by="these tests", every_seconds=0, progress=progress or Silence()
    )


def run(
    tiny, batches, folder, *, schedule=Schedule.INTERLEAVED, progress=None, every=0.0, keeper=None
):
    """(weights, what `fit` returns) of GIM on the tiny encoder."""
    learner = tiny("gim").learner.to(memory_format=torch.channels_last)
    trainer = Trainer(
        learner, learning_rate=1e-3, schedule=schedule, precision=Precision.FP32, device=CPU
    )
    trained = fit(
        trainer,
        batches,
        steps=STEPS,
        title="training",
        progress=progress or Silence(),
        keeper=keeper,
        checkpoints=Checkpoints(
            folder, made_by="these tests", every_seconds=every, progress=Silence()
        ),
    )
    return [p.detach().clone() for p in learner.parameters()], trained


def same(one, other):
    (ours, trained), (theirs, expected) = one, other
    return trained.losses == expected.losses and all(
        torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.fixture
def uninterrupted(tiny, batches, tmp_path):
    def train(schedule):
        return run(tiny, batches, tmp_path / "whole", schedule=schedule, every=1e9)

    return train


@pytest.mark.parametrize(
    "interruption",
    [(1, signal.SIGINT), (3, signal.SIGTERM), (4, signal.SIGINT), (STEPS, signal.SIGTERM)],
)
def test_a_signal_ends_training_after_the_step_and_it_goes_on_bit_for_bit(
    interruption, tiny, batches, tmp_path, uninterrupted
):
    """Though no checkpoint was due."""
    step, sent = interruption
    folder = tmp_path / "checkpoints"
    with pytest.raises(Interrupted):
        run(tiny, batches, folder, progress=Signalling(step, sent), every=1e9)
    resumed = run(tiny, batches, folder)
    assert resumed[1].resumed_at == step
    assert same(resumed, uninterrupted(Schedule.INTERLEAVED))


@pytest.mark.parametrize("step", [2, 3, STEPS, STEPS + 1, 2 * STEPS + 6])
def test_a_training_in_sequence_goes_on_from_any_step_of_any_module(
    step, tiny, batches, tmp_path, uninterrupted
):
    folder = tmp_path / "checkpoints"
    with pytest.raises(KilledError):
        run(tiny, batches, folder, schedule=Schedule.SEQUENTIAL, progress=Killing(step))
    resumed = run(tiny, batches, folder, schedule=Schedule.SEQUENTIAL)
    assert same(resumed, uninterrupted(Schedule.SEQUENTIAL))
    assert resumed[1].steps == 3 * STEPS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("step", [STEPS + 2, 2 * STEPS + 5])
def test_kept_outputs_are_found_again(step, dtype, tiny, batches, tmp_path):
    """Though they are rounded, and seen more than once."""

    def settings(name):
        keeper = Keeper(folder=tmp_path / name, epochs=1, dtype=dtype, progress=Silence())
        return {"schedule": Schedule.SEQUENTIAL, "keeper": keeper}

    whole = run(tiny, batches, tmp_path / "whole", **settings("whole kept"))
    with pytest.raises(Interrupted):
        run(tiny, batches, tmp_path / "c", progress=Signalling(step), **settings("kept"))
    resumed = run(tiny, batches, tmp_path / "c", **settings("kept"))
    assert same(resumed, whole)
    assert resumed[1].kept_bytes == whole[1].kept_bytes > 0


def test_a_training_that_is_over_keeps_no_outputs_again(tiny, batches, tmp_path):
    keeper = Keeper(folder=tmp_path / "k", epochs=1, dtype=torch.float32, progress=Listener())
    settings = {"schedule": Schedule.SEQUENTIAL, "keeper": keeper}
    _, trained = run(tiny, batches, tmp_path / "c", **settings)
    keeper.progress.tasks.clear()
    _, again = run(tiny, batches, tmp_path / "c", **settings)
    assert keeper.progress.tasks == []
    assert again.kept_bytes == trained.kept_bytes > 0


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_signal_during_the_last_save_of_a_module_is_not_lost(
    number, tiny, batches, tmp_path, monkeypatch
):
    """Of the module that is trained `number`th: the next one does not begin."""
    save = Checkpoints.save

    def interrupted(self, state):
        if len(state["standing"]["histories"]) == number and state["standing"]["done"] == STEPS:
            os.kill(os.getpid(), signal.SIGTERM)
        save(self, state)

    monkeypatch.setattr(Checkpoints, "save", interrupted)
    with pytest.raises(Interrupted):
        run(tiny, batches, tmp_path / "c", schedule=Schedule.SEQUENTIAL, every=1e9)
    assert len(always(tmp_path / "c").newest()["standing"]["histories"]) == number


def test_what_other_code_wrote_is_not_gone_on_from(tmp_path):
    always(tmp_path).save({"number": 1})
    heard = Listener()
    other = Checkpoints(tmp_path, made_by="other code", every_seconds=0, progress=heard)
    assert other.newest() is None
    (checkpoint,) = tmp_path.iterdir()
    said = f"{checkpoint} is of other code: training does not resume from it"
    assert heard.lines == [said]


def test_a_training_that_is_over_is_not_trained_again(tiny, batches, tmp_path, uninterrupted):
    """So that a probe that was killed costs no training."""
    run(tiny, batches, tmp_path / "c")
    heard = Listener()
    again = run(tiny, batches, tmp_path / "c", progress=heard)
    assert heard.steps == 0
    assert same(again, uninterrupted(Schedule.INTERLEAVED))


def test_seconds_of_training_add_up(tiny, batches, tmp_path):
    with pytest.raises(KilledError):
        run(tiny, batches, tmp_path / "c", progress=Killing(7))
    state = always(tmp_path / "c").newest()
    before = state["standing"]["seconds"]
    state["standing"]["seconds"] += 1000.0
    always(tmp_path / "c").save(state)
    assert before > 0
    assert run(tiny, batches, tmp_path / "c")[1].seconds > before + 1000


def test_a_second_signal_ends_at_once(tiny, batches, tmp_path):
    class Twice(Silence):
        def advance(self, steps=1, **facts):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as ending:
        run(tiny, batches, tmp_path / "c", progress=Twice(), every=1e9)
    assert not isinstance(ending.value, Interrupted)
    assert not list(tmp_path.glob("c/*"))


def test_signals_are_handled_as_before_after_training(tiny, batches, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(tiny, batches, tmp_path / "c")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# -- files -----------------------------------------------------------------------------------------


def test_the_last_two_are_kept(tmp_path):
    written = always(tmp_path)
    for number in range(5):
        written.save({"number": number})
    assert [path.stem.split("-")[1] for path in sorted(tmp_path.iterdir())] == ["000004", "000005"]
    assert written.newest() == {"number": 4}


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_one_that_was_altered_is_passed_over_with_a_line(place, tmp_path):
    for number in range(2):
        always(tmp_path).save({"weights": torch.full((1000,), float(number))})
    newest = max(tmp_path.iterdir())
    content = bytearray(newest.read_bytes())
    content[int(place * len(content))] ^= 1
    newest.write_bytes(content)
    heard = Listener()
    found = always(tmp_path, heard).newest()
    assert found["weights"].eq(0).all()
    assert heard.lines == [f"{newest} is damaged: training does not resume from it"]


def test_one_that_was_cut_off_is_passed_over(tmp_path):
    always(tmp_path).save({"number": 1})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert always(tmp_path).newest() is None


def test_one_that_cannot_be_read_is_passed_over(tmp_path):
    always(tmp_path).save({"number": 1})
    (tmp_path / f"checkpoint-000002-{'0' * 16}.pt").mkdir()
    assert always(tmp_path).newest() == {"number": 1}


def test_a_pickle_of_something_else_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    always(tmp_path).save({"evil": Evil()})
    assert always(tmp_path).newest() is None
    assert not (tmp_path / "evil").exists()


class Full:
    """A state that the disk has no room for, as PyTorch reports it."""

    def __reduce__(self):
        raise OSError(28, "No space left on device")


def test_a_write_that_fails_costs_a_line_and_leaves_the_ones_before(tmp_path):
    listener = Listener()
    written = always(tmp_path, listener)
    written.save({"number": 1})
    written.save({"number": Full()})
    assert len(listener.lines) == 1
    assert "training goes on without it: [Errno 28] No space left" in listener.lines[0]
    assert written.newest() == {"number": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_one_is_due_after_its_time_and_at_the_end_of_an_epoch_after_a_tenth_of_it(
    tmp_path, monkeypatch
):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    written = Checkpoints(tmp_path, made_by="tests", every_seconds=60, progress=Silence())
    found = {}
    for now[0] in (105.9, 106.0, 159.9, 160.0):
        found[now[0]] = written.due(epoch_ended=False), written.due(epoch_ended=True)
    assert found == {
        105.9: (False, False), 106.0: (False, True), 159.9: (False, True), 160.0: (True, True)
    }  # fmt: skip
    written.save({})
    assert not written.due(epoch_ended=True)


def test_what_killed_processes_had_begun_to_write_does_not_pile_up(tmp_path):
    for number in range(3):
        (tmp_path / f".checkpoint-00000{number}.part.123-abcd").write_bytes(b"begun")
        (tmp_path / f"checkpoint-00000{number}.part").write_bytes(b"written, not named")
    saved = always(tmp_path)
    saved.save({"step": 1})
    assert len(list(tmp_path.iterdir())) == 1


def test_an_old_one_that_another_process_has_removed_costs_no_line(tmp_path, monkeypatch):
    """As where a machine that was taken for dead goes on."""
    listener = Listener()
    files = always(tmp_path, listener)
    files.save({"step": 1})
    files.save({"step": 2})
    paths = files._paths()
    paths[0].unlink()
    monkeypatch.setattr(files, "_paths", lambda: paths)
    files.save({"step": 3})
    monkeypatch.undo()
    assert files.newest() == {"step": 3}
    assert listener.lines == []


def test_clearing_leaves_no_folder(tmp_path):
    always(tmp_path / "c").save({"number": 1})
    always(tmp_path / "c").clear()
    always(tmp_path / "never").clear()
    assert not list(tmp_path.iterdir())
