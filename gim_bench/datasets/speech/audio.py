"""Reading audio files."""

from pathlib import Path
from typing import Any

import numpy as np

from gim_bench.datasets.files import UnusableError
from gim_bench.datasets.speech.containers import (
    MP3_SLACK_FRAMES,
    Extent,
    extent_of,
    flac_frames,
    mp3_frames,
    mp3_is_counted,
)
from gim_bench.datasets.speech.remarks import Tell, remarks_on

FULL_SCALE = 2**15  # of int16 samples
# Floating-point samples beyond -1..1 are clipped. Samples beyond this are in other units.
LOUDEST = 100.0
# Files that libsndfile decodes, and whose headers are compared with their bytes.
SUFFIXES = (
    ".aif", ".aifc", ".aiff", ".au", ".bwf", ".caf", ".flac", ".mp3", ".nist", ".oga", ".ogg",
    ".opus", ".rf64", ".snd", ".sph", ".w64", ".wav", ".wave",
)  # fmt: skip
FORMATS = ("AIFF", "AU", "CAF", "FLAC", "MP3", "NIST", "OGG", "RF64", "W64", "WAV", "WAVEX")
UNKNOWN_FRAMES = 2**62  # libsndfile counts as many where a header leaves the length open
SAMPLE_BYTES = {
    "PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8,
    "ULAW": 1, "ALAW": 1,
}  # fmt: skip
OFF = "it breaks off before its end"


def read_audio(path: Path, *, tell: Tell = lambda _: None) -> tuple[np.ndarray, int]:
    """float32 samples in [-1, 1), averaged over channels, and the sample rate in Hz.

    `tell` hears of clipping, of silence, and of channels that cancel.

    Raises: UnusableError.
    """
    import soundfile  # where files are read: images are trained on without libsndfile

    extent: Extent | None = None
    try:
        with path.open("rb") as raw:
            extent = extent_of(raw)
        with soundfile.SoundFile(path) as file:
            samples = _samples(file, path=path, extent=extent)
            rate_hz = file.samplerate
    except UnusableError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything
        why = str(getattr(error, "error_string", error)).strip().rstrip(".")
        why = OFF if extent and extent.breaks_off else f"it cannot be decoded: {why}"
        raise UnusableError(f"{path} ({why})") from None
    if not np.isfinite(samples).all():
        raise UnusableError(f"{path} (some of its samples are not finite)")
    if (loudest := np.abs(samples).max(initial=0)) > LOUDEST:
        raise UnusableError(f"{path} (its samples reach {loudest:,.4g} where 1 is full scale)")
    for remark in remarks_on(samples, rate_hz=rate_hz):
        tell(remark)
    return samples.mean(axis=1), rate_hz


def _samples(file: Any, *, path: Path, extent: Extent | None) -> np.ndarray:
    """float32 [sample channel], all that an open SoundFile holds.

    Raises: UnusableError if less is read.
    """
    if file.format not in FORMATS:
        raise UnusableError(f"{path} (its format is {file.format}: encode it anew as WAV or FLAC)")
    frames, rate_hz = file.frames, file.samplerate
    if frames >= UNKNOWN_FRAMES:
        raise UnusableError(f"{path} (its header does not say how long it is: encode it anew)")
    if extent is not None and (extent.breaks_off or extent.goes_on):
        _compare(file, path=path, extent=extent)
    width = file.channels * SAMPLE_BYTES.get(file.subtype, 0)
    if extent is not None and extent.claimed and width:
        frames = min(frames, extent.claimed // width)  # W64 is read beyond the end of its sound
    # Some decoders cannot seek: soundfile asks for the number of frames then.
    samples: np.ndarray = file.read(frames=frames, dtype="float32", always_2d=True)
    if file.format == "MP3":
        held, is_estimated = _mp3(path)
        if held > len(samples) + MP3_SLACK_FRAMES * 1_152:
            raise _counts(path, claimed=len(samples) / rate_hz, held=held / rate_hz)
        frames = len(samples) if is_estimated else frames
    if len(samples) != frames:
        raise UnusableError(f"{path} ({OFF})")
    if file.format == "FLAC" and (held := flac_frames(path.read_bytes())) > frames:
        raise _counts(path, claimed=frames / rate_hz, held=held / rate_hz)
    return samples


def _mp3(path: Path) -> tuple[int, bool]:
    """Samples in a file's frames, and whether its length is an estimate, for want of a header."""
    content = path.read_bytes()
    return mp3_frames(content), not mp3_is_counted(content)


def _compare(file: Any, *, path: Path, extent: Extent) -> None:
    """Raises: UnusableError if header and bytes differ; not if the decoder reads all the same."""
    claimed, held = extent.claimed, extent.held
    if claimed is None:
        raise UnusableError(f"{path} ({OFF})")
    width = file.channels * SAMPLE_BYTES.get(file.subtype, 0)
    if not claimed and width and file.frames == held // width:
        return
    read = min(claimed, held)
    if not width and not read:
        raise UnusableError(
            f"{path} (its header counts nothing where the file holds {held:,} bytes of sound: "
            f"encode it anew)"
        )
    seconds = (1 / width if width else file.frames / read) / file.samplerate
    raise _counts(path, claimed=claimed * seconds, held=held * seconds)


def _counts(path: Path, *, claimed: float, held: float) -> UnusableError:
    """The fault of a header that counts `claimed` seconds where the file holds `held` seconds."""
    one, other = _seconds(claimed), _seconds(held)
    if one == other:
        one, other = f"{claimed:,.4f} s", f"{held:,.4f} s"
    fault = f"its header counts {one} where the file holds {other}"
    fault = f"{OFF}: {fault}" if claimed > held else f"{fault}: encode it anew"
    return UnusableError(f"{path} ({fault})")


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 10 else f"{seconds:,.1f} s"


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1) as int16, clipped beyond; samples that were int16 come back exactly."""
    scaled = np.rint(samples * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
