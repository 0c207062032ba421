"""Settings of the augmentations: crops of images and windows of speech."""

from typing import Literal

from pydantic import FiniteFloat, model_validator

from gim_bench.settings.base import PositiveFloat, PositiveInt, Settings

FRAME_SAMPLES = 160  # at 16 kHz: phone labels are 10 ms apart


class CropSettings(Settings):
    """Of images: random crops and flips in training; the centre crop, unflipped, for the probe."""

    kind: Literal["crop"]
    crop: PositiveInt  # pixels
    flip: bool = True  # horizontally, with probability 0.5
    grayscale: bool = True
    mean: tuple[FiniteFloat, ...]  # per channel after grayscale, of intensities in 0..1
    std: tuple[PositiveFloat, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an augmented image."""
        return (1 if self.grayscale else 3, self.crop, self.crop)

    @model_validator(mode="after")
    def _a_statistic_per_channel(self) -> "CropSettings":
        channels = 1 if self.grayscale else 3
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std must hold {channels} number(s), one per channel")
        return self


class WindowSettings(Settings):
    """Of speech: a window at a random 10 ms place in training; all of it, cut up, for the probe.

    A recording that is shorter than the window is followed by silence.
    """

    kind: Literal["window"]
    samples: PositiveInt = 20_480  # at 16 kHz
    mean: FiniteFloat = -0.00068  # of samples in -1..1
    std: PositiveFloat = 0.0630

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples of a window."""
        return (self.samples,)

    @model_validator(mode="after")
    def _whole_steps(self) -> "WindowSettings":
        if self.samples % FRAME_SAMPLES:
            raise ValueError(
                f"samples = {self.samples} is no multiple of {FRAME_SAMPLES}, the 10 ms of a "
                f"phone label"
            )
        return self
