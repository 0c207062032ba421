"""Reading audio files, one or many at a time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile

from gim_bench.datasets.files import UnusableError

Item = TypeVar("Item")
Result = TypeVar("Result")

FULL_SCALE = 2**15  # of int16 samples
# Floating-point samples beyond -1..1 are clipped. Samples beyond this are in other units.
LOUDEST = 100.0
WAV_SLACK_BYTES = 8  # a WAV file may lack as many: some writers count the header or a padding byte
WAV_OPEN_BYTES = 2**31 - 2**16  # programs that write to pipes claim sizes from here on


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """float32 samples in [-1, 1), averaged over channels, and the sample rate in Hz.

    Raises: UnusableError.
    """
    try:
        with soundfile.SoundFile(path) as file:
            frames, rate_hz = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
        is_whole = len(samples) == frames and not _lacks_bytes(path)
    except Exception as error:  # decoders of damaged files raise nearly anything
        why = str(getattr(error, "error_string", error)).strip().rstrip(".")
        raise UnusableError(f"{path} (it cannot be decoded: {why})") from None
    if not is_whole:
        raise UnusableError(f"{path} (it breaks off before its end)")
    if not np.isfinite(samples).all():
        raise UnusableError(f"{path} (some of its samples are not finite)")
    if (loudest := np.abs(samples).max(initial=0)) > LOUDEST:
        raise UnusableError(f"{path} (its samples reach {loudest:,.4g} where 1 is full scale)")
    return samples.mean(axis=1), rate_hz


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1) as int16, clipped beyond; samples that were int16 come back exactly."""
    scaled = np.rint(samples * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _lacks_bytes(path: Path) -> bool:
    """Whether a WAV file is shorter than its header says; libsndfile does not check."""
    with path.open("rb") as file:
        header = file.read(8)
    claimed = int.from_bytes(header[4:], "little") + len(header)
    is_open = claimed >= WAV_OPEN_BYTES or header[:4] != b"RIFF"
    return not is_open and claimed > path.stat().st_size + WAV_SLACK_BYTES


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results of `function` for each item, in order; several threads work a little ahead.

    A pool's own `map` would hold all results that are not yet taken, here up to 12 GB.
    """
    threads = os.cpu_count() or 1
    ahead = deque[Future[Result]]()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 4 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
