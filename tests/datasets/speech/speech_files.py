"""Small audio files for tests."""

import numpy as np
import soundfile


def ramp(samples=1_600, *, first=0):
    """int16 samples that all differ from their neighbours, told apart by the first."""
    return (first + np.arange(samples) * 7 % 97).astype(np.int16)


def write(path, samples=None, *, rate_hz=16_000, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, ramp() if samples is None else samples, rate_hz, **how)
    return path


def samples_of(recordings):
    """Each recording of a split, as it lies in the array."""
    return [
        recordings.samples[start : start + length].tolist()
        for start, length in zip(recordings.starts, recordings.lengths, strict=True)
    ]


def frames_of(recordings, target):
    """The labels of each recording's frames."""
    counts = [max(0, 1 + (length - 400) // 160) for length in recordings.lengths.tolist()]
    labels = recordings.frames[target]
    assert len(labels) == sum(counts)
    return [part.tolist() for part in np.split(labels, np.cumsum(counts)[:-1])]
