"""Windows of long recordings."""

import numpy as np
import pytest
import torch

from gim_bench.contract import Recordings
from gim_bench.datasets.arrays import read_part
from gim_bench.datasets.speech.audio import FULL_SCALE
from gim_bench.errors import ConfigError, DataError
from gim_bench.settings.augmentations import StretchSettings
from gim_bench.settings.suites import parse
from tests.large import LENGTH, SAMPLES, hiss, stretches


def normalised(samples):
    return torch.from_numpy(samples).float() / FULL_SCALE / 0.05


def test_windows_are_parts_of_the_recordings_on_their_grid_of_10_ms():
    recordings = hiss(LENGTH, LENGTH + 500)
    found = stretches(recordings, windows=30)
    numbers = set()
    for batch, windows in zip(found.epoch(2), found.places(2), strict=True):
        for inputs, recording, (first,) in zip(batch.inputs, *windows, strict=True):
            numbers.add(int(recording))
            start = recordings.starts[recording] + int(first)
            expected = normalised(recordings.samples[start : start + SAMPLES])
            assert torch.allclose(inputs, expected, atol=1e-6)
            assert first % 160 == 0
    assert numbers == {0, 1}


def test_windows_stay_within_the_stretch_and_reach_its_ends():
    found = stretches(length=SAMPLES + 500, windows=300, batch_size=300)
    (windows,) = found.places(1)
    assert set(windows.corners.flatten().tolist()) == {0, 160, 320, 480}


def test_a_window_as_long_as_the_stretch_is_the_stretch():
    recordings = hiss(LENGTH)
    (batch,) = stretches(recordings, samples=3_200, length=3_200, windows=1, batch_size=1).epoch(1)
    assert torch.allclose(batch.inputs[0], normalised(recordings.samples[:3_200]), atol=1e-6)


def test_a_part_of_a_mapped_array_is_read_from_its_file(tmp_path):
    """Whatever part of the file is mapped, and whatever part of the mapping the array is."""
    path = tmp_path / "samples.bin"
    values = np.arange(10_000, dtype=np.int16)
    values.tofile(path)
    mapped = np.memmap(path, dtype=np.int16, mode="c", offset=200)[50:]
    mapped[:] = 0  # in memory alone: a part that is read shows the file
    assert np.array_equal(read_part(mapped, 7, count=5), values[157:162])
    assert np.array_equal(read_part(mapped[100:], 7, count=5), values[257:262])
    assert np.array_equal(read_part(values, 7, count=5), values[7:12])


def test_a_file_that_was_cut_off_is_one_line(tmp_path):
    path = tmp_path / "samples.bin"
    np.zeros(LENGTH, dtype=np.int16).tofile(path)
    mapped = np.memmap(path, dtype=np.int16, mode="c")
    found = stretches(
        Recordings(
            samples=mapped,
            starts=np.array([0]),
            lengths=np.array([LENGTH]),
            labels={},
            frames={},
        )
    )
    with path.open("r+b") as file:
        file.truncate(LENGTH)
    with pytest.raises(DataError, match=r"^.*samples\.bin has been cut off: remove it"):
        found.read(0, [LENGTH - 100], size=[100])


def test_a_window_that_is_longer_than_the_stretch_is_refused_in_one_line():
    table = {"kind": "stretch", "length": 16_000, "mean": 0.0, "std": 0.05}
    with pytest.raises(ConfigError, match="20480 samples does not fit into a stretch of 16000"):
        parse(StretchSettings, table, origin="suite x", name="augmentation")
