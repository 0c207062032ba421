"""Outputs over long recordings, streamed to disk: they equal those of the whole recording."""

import pytest
import torch

from gim_bench.contract import Batch
from gim_bench.datasets.speech import stretches as reading
from gim_bench.encoders.tiles import composed
from gim_bench.progress import Silence
from gim_bench.training import streamed_outputs
from gim_bench.training.streamed_outputs import Streamer
from tests.large import (
    LENGTH,
    NO_PADDING,
    SAMPLES,
    hiss,
    speech_learner,
    stretches,
    trainer_of,
    weights_after,
)

CHUNK = 30  # time steps, so that module 1 has 61 chunks of a recording and module 5 two
PAPERS = (2, 2, 2, 2, 1)
CONVOLUTIONS = [f"module_{m}" for m in range(1, 6)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(streamed_outputs, "CHUNKS", {1: CHUNK})


def streamer(folder, *, paddings):
    reaches = speech_learner(paddings=paddings).encoder.reaches
    return Streamer(
        folder=folder / "kept",
        dtype=torch.float32,
        progress=Silence(),
        reaches={unit: composed(reaches[: m + 1]) for m, unit in enumerate(CONVOLUTIONS)},
    )


@pytest.mark.parametrize("paddings", [NO_PADDING, PAPERS])
@pytest.mark.parametrize("unit", CONVOLUTIONS)
def test_what_is_streamed_is_the_encoding_of_the_whole_recording(tmp_path, unit, paddings):
    """Of two recordings whose length no stride divides, with padding at their two ends alone."""
    recordings = hiss(LENGTH, LENGTH)
    source = stretches(recordings)
    module = trainer_of(speech_learner(paddings=paddings))

    def encode(batch):
        return module.outputs(batch, unit=unit)

    found = streamer(tmp_path, paddings=paddings).keep(source, encode, unit=unit, identity="a" * 64)
    for number in range(2):
        whole = source.read(number, [0], size=[LENGTH])
        expected = encode(Batch(inputs=whole, labels={})).inputs[0, 0]
        ours = found.window(number, [0], rows=expected.shape[1])
        assert (ours - expected).abs().max() < 1e-6
        assert expected.std() > 1e-3


def trained(batches, keeper=None):
    return weights_after(4, speech_learner(), batches, keeper=keeper)


def test_training_on_streamed_outputs_is_training_on_windows_of_samples(tmp_path):
    """All modules, the GRU among them, where the convolutions pad nothing."""
    plain = trained(stretches())
    ours = trained(stretches(), streamer(tmp_path, paddings=NO_PADDING))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, plain, strict=True))
    first = [parameter.detach() for parameter in speech_learner().parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(first, plain, strict=True) if a.ndim > 1)


def test_the_recording_is_never_read_whole(tmp_path, monkeypatch):
    read, sizes = reading.read_part, []

    def noted(samples, first, *, count):
        sizes.append(count)
        return read(samples, first, count=count)

    monkeypatch.setattr(reading, "read_part", noted)
    trained(stretches(), streamer(tmp_path, paddings=NO_PADDING))
    reach = composed(speech_learner().encoder.reaches)
    assert max(sizes) == max(SAMPLES, (CHUNK - 1) * reach.stride + reach.field) < LENGTH
