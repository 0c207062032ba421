"""Samples of one audio file, and of many in parallel."""

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
# Floating-point samples may go beyond -1..1, and are clipped. Beyond this they are in other units.
LOUDEST = 100.0
WAV_SLACK_BYTES = 8  # that a WAV file may lack: some writers count its header in, or a padding byte
WAV_OPEN_BYTES = 2**31 - 2**16  # sizes from here on are left open by programs that write to pipes


def read_audio(path: Path) -> tuple[np.ndarray, int]:
    """float32 samples in [-1, 1), the mean of all channels, and how many there are in a second.

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
    """Samples in [-1, 1) as int16, those beyond clipped; what was int16 before is so again."""
    scaled = np.rint(samples * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def _lacks_bytes(path: Path) -> bool:
    """Whether a WAV file is shorter than it says, which libsndfile does not mind."""
    with path.open("rb") as file:
        header = file.read(8)
    claimed = int.from_bytes(header[4:], "little") + len(header)
    is_open = claimed >= WAV_OPEN_BYTES or header[:4] != b"RIFF"
    return not is_open and claimed > path.stat().st_size + WAV_SLACK_BYTES


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What `function` makes of each item, in order; several threads work a little ahead.

    A pool's own `map` would hold all results that are not yet taken, which here may be 12 GB.
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
