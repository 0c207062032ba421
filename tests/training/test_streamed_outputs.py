"""Outputs over large images, streamed to disk: windows of them, resumption, and lack of room."""

import errno
import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from gim_bench.encoders.tiles import composed
from gim_bench.errors import DataError, RoomError
from gim_bench.progress import Silence
from gim_bench.training import kept_outputs, streamed_outputs
from gim_bench.training.streamed_outputs import Streamer
from tests.large import SIDE, learner, noise, regions, trainer_of, weights_after
from tests.listener import Listener

CHUNK = 16  # of 89 rows and columns of module 1, so that chunks at the edges are filled up
LONG_CHUNK = 100  # of time steps
REACHES = {"module_1": composed(learner().encoder.reaches[:1])}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(streamed_outputs, "CHUNKS", {1: LONG_CHUNK, 2: CHUNK})


def streamer(folder, *, dtype=torch.float32, progress=None):
    return Streamer(
        folder=folder / "kept", dtype=dtype, progress=progress or Silence(), reaches=REACHES
    )


class Encoded:
    """Module 1, which counts how often it is asked and may fail."""

    def __init__(self, *, fails_at=None):
        self.calls = 0
        self.fails_at = fails_at
        self._outputs = partial(trainer_of(learner()).outputs, unit="module_1")

    def __call__(self, batch):
        self.calls += 1
        if self.calls == self.fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._outputs(batch)


def streamed(folder, *, encode=None, source=None, **settings):
    return streamer(folder, **settings).keep(
        source or regions(), encode or Encoded(), unit="module_1", identity="a" * 64
    )


CHUNKS = 36


# -- training on what was streamed -----------------------------------------------------------------


def trained(batches, keeper=None):
    return weights_after(6, learner(), batches, keeper=keeper)


def test_training_on_streamed_outputs_is_training_on_the_windows_of_the_image(tmp_path):
    plain = trained(regions())
    ours = trained(regions(), streamer(tmp_path))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, plain, strict=True))
    first = [parameter.detach() for parameter in learner().parameters()]
    assert not any(torch.allclose(a, b, atol=1e-3) for a, b in zip(first, plain, strict=True))


def test_windows_are_what_the_module_hands_on_of_them_batch_for_batch(tmp_path):
    source = regions(noise(seed=0), noise(seed=1), windows=12)
    found, encode = streamed(tmp_path, source=source), Encoded()
    assert len(found) == 4
    for number in (1, 2):
        for ours, theirs in zip(found.epoch(number), source.epoch(number), strict=True):
            expected = encode(theirs)
            assert ours.encoded_by == expected.encoded_by == "module_1"
            assert torch.allclose(ours.inputs, expected.inputs, atol=1e-6)


def test_outputs_in_bf16_are_rounded_once(tmp_path):
    whole = Encoded()(next(regions(window=SIDE, batch_size=1).epoch(1)))
    found = streamed(tmp_path, dtype=torch.bfloat16).window(0, (3, 10), rows=40)
    assert torch.equal(found, whole.inputs[0, 0, :, 3:43, 10:50].to(torch.bfloat16))


def test_the_image_is_never_read_whole(tmp_path):
    image = noise()
    streamed(tmp_path, source=regions(image))
    reach = REACHES["module_1"]
    assert max(max(size) for size in image.read) <= (CHUNK - 1) * reach.stride + reach.field


def test_nothing_is_left_on_the_disk_after_training(tmp_path):
    trained(regions(), streamer(tmp_path))
    assert not list(tmp_path.iterdir())


# -- interruptions, damage, room -------------------------------------------------------------------


def test_a_disk_that_fills_up_loses_no_chunk_that_was_written(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        streamed(tmp_path, encode=Encoded(fails_at=20))
    encode = Encoded()
    resumed = streamed(tmp_path, encode=encode)
    # The first chunk is computed again, because it tells the size of all.
    assert encode.calls == 1 + CHUNKS - 19
    fresh = streamed(tmp_path / "fresh")
    assert torch.equal(resumed.window(0, (0, 0), rows=89), fresh.window(0, (0, 0), rows=89))


def test_a_chunk_damaged_while_training_waits_is_computed_again(tmp_path):
    streamed(tmp_path)
    (file,) = (tmp_path / "kept").glob("*.outputs")
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)
    encode = Encoded()
    found = streamed(tmp_path, encode=encode)
    assert encode.calls == 2
    assert torch.equal(
        found.window(0, (0, 0), rows=89), streamed(tmp_path / "fresh").window(0, (0, 0), rows=89)
    )


def test_a_chunk_damaged_while_training_reads_is_named_in_one_line(tmp_path):
    found = streamed(tmp_path)
    content = bytearray(found.path.read_bytes())
    content[5000] ^= 1
    found.path.write_bytes(content)
    with pytest.raises(DataError, match=r"^chunk 2 of .* was damaged .* computes it again$"):
        found.window(0, (0, 0), rows=40)


def test_the_size_is_said_before_and_refused_without_room(tmp_path, monkeypatch):
    listener = Listener()
    said = streamer(tmp_path, dtype=torch.bfloat16, progress=listener)
    expected = CHUNKS * 4 * CHUNK**2 * 2
    assert said.make_room(regions(), {"module_1": Encoded()}) == expected
    assert listener.lines == ["keeping outputs of module_1 0.00 GB, at most 0.00 GB at a time"]
    usage = SimpleNamespace(free=expected - 1)
    monkeypatch.setattr(kept_outputs, "shutil", SimpleNamespace(disk_usage=lambda _: usage))
    with pytest.raises(RoomError, match=r"lower augmentation\.side, or leave out"):
        said.make_room(regions(), {"module_1": Encoded()})
    assert shutil.disk_usage(tmp_path).free
