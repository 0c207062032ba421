"""Conditions of a recording that tell nothing about its speaker or words: channel, noise and level.

All of them leave every sound at its time: the channel has zero phase, so labels stay exact.

A condition that lasts through a recording tells recordings apart. Methods that contrast recordings
with each other (InfoNCE) then learn the condition in place of the speaker. So the noise has one
colour, and a suite that wants speakers to be learnt keeps the channel flat and the ranges narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from gim_bench.contract import SAMPLE_RATE_HZ

Decibels = TypeVar("Decibels", float, np.ndarray)

# Centres of the bands whose gains are drawn; in between, the gain in dB is linear in log frequency.
BANDS_HZ = tuple(62.5 * 2**octave for octave in range(8))
PADDING = 1_600  # zeros that separate a recording's end from its beginning, which the FFT joins


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Ranges from which each recording draws its own conditions; None or 0 turns one off."""

    channel_db: float  # standard deviation of a band's gain
    snr_db: tuple[float, float] | None  # mean power of the speech over that of the noise
    level_db: tuple[float, float] | None  # root mean square of the recording; 0 is full scale

    @property
    def are_ideal(self) -> bool:
        return not self.channel_db and self.snr_db is None and self.level_db is None

    def applied(
        self, samples: Float[np.ndarray, "sample"], *, full_scale: float, draw: np.random.Generator
    ) -> Float[np.ndarray, "sample"]:
        """The speech as a recording under conditions from `draw`. Silence stays as it is."""
        if self.channel_db:
            gains_db = self.channel_db * draw.standard_normal(len(BANDS_HZ))
            samples = filtered(samples, gains_db=gains_db)
        level = _rms(samples)
        if self.snr_db is not None:
            noise = pink_noise(len(samples), draw=draw)
            samples = samples + level * amplitude(-draw.uniform(*self.snr_db)) * noise
        if self.level_db is not None and (level := _rms(samples)):
            samples = samples * (full_scale * amplitude(draw.uniform(*self.level_db)) / level)
        return samples


def filtered(
    samples: Float[np.ndarray, "sample"], *, gains_db: Sequence[float] | np.ndarray
) -> Float[np.ndarray, "sample"]:
    """The samples through a zero-phase filter with these gains at BANDS_HZ.

    Beyond the outer bands the gain is theirs.
    """
    size = len(samples) + PADDING
    frequencies = np.fft.rfftfreq(size, d=1 / SAMPLE_RATE_HZ).clip(min=BANDS_HZ[0])
    gain_db = np.interp(np.log2(frequencies), np.log2(BANDS_HZ), gains_db)
    return np.fft.irfft(np.fft.rfft(samples, size) * amplitude(gain_db), size)[: len(samples)]


def pink_noise(size: int, *, draw: np.random.Generator) -> Float[np.ndarray, "size"]:
    """Gaussian noise of root mean square 1, whose power falls as 1 / frequency.

    Below the lowest band the spectrum is flat.
    """
    frequencies = np.fft.rfftfreq(size, d=1 / SAMPLE_RATE_HZ).clip(min=BANDS_HZ[0])
    spectrum = np.fft.rfft(draw.standard_normal(size)) * frequencies**-0.5
    noise = np.fft.irfft(spectrum, size)
    return noise / _rms(noise)


def amplitude(decibels: Decibels) -> Decibels:
    """The ratio of amplitudes that a level in dB stands for."""
    return 10 ** (decibels / 20)


def _rms(samples: Float[np.ndarray, "sample"]) -> float:
    return float(np.sqrt(np.mean(samples**2)))
