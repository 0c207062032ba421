"""Settings of the augmentations: crops of images and windows of speech.

Defaults of the transforms: BYOL (Grill et al. 2020, appendix B), as in Barlow Twins (Zbontar et al.
2021).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    field_validator,
    model_validator,
)

from gim_bench.settings.base import NotNegative, PositiveFloat, PositiveInt, Settings

FRAME_SAMPLES = 160  # at 16 kHz: phone labels are 10 ms apart


def _ordered(found: tuple[float, float]) -> tuple[float, float]:
    if found[0] > found[1]:
        raise ValueError(f"the range {list(found)} is upside down: write the smaller number first")
    return found


def _odd(found: int) -> int:
    if found % 2 == 0:
        raise ValueError(f"a kernel of {found} pixels has no centre: use an odd number")
    return found


Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Strength = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ResizedSettings(Settings):
    """Random resized crop: a random part of the image, resized to `crop` pixels."""

    scale: Annotated[tuple[Share, Share], AfterValidator(_ordered)] = (0.08, 1.0)  # of the area
    # Width / height of the part.
    ratio: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)] = (
        3 / 4,
        4 / 3,
    )


class JitterSettings(Settings):
    """Colour jitter: each strength s allows factors of 1 - s to 1 + s; hue turns by -s to s."""

    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.2
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1  # of a full turn
    probability: Probability = 0.8


class BlurSettings(Settings):
    """Gaussian blur with a random standard deviation."""

    kernel: Annotated[PositiveInt, AfterValidator(_odd)] = 23  # pixels
    sigma: Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ordered)] = (0.1, 2.0)
    probability: Probability = 1.0


class SolariseSettings(Settings):
    """Solarisation: intensities from `threshold` on are inverted."""

    threshold: Probability = 0.5  # of intensities in 0..1
    probability: Probability = 0.2


class ViewSettings(Settings):
    """Transforms of one augmented view, in the order in which they are applied."""

    resized: ResizedSettings | None = None  # None: a crop at a random place, not resized
    jitter: JitterSettings | None = None
    gray: Probability = 0.0
    blur: BlurSettings | None = None
    solarise: SolariseSettings | None = None
    cutout: NotNegative = 0  # pixels of a side of a square without content; 0: no cutout

    @property
    def photometric(self) -> bool:
        """Whether any transform changes the intensities."""
        tables = (self.jitter, self.blur, self.solarise)
        return self.gray > 0 or any(table and table.probability > 0 for table in tables)


class CropSettings(ViewSettings):
    """Images: random crops and flips in training; the centre crop, unflipped, for the probe."""

    kind: Literal["crop"]
    crop: PositiveInt  # pixels
    resize: PositiveInt | None = None  # pixels of an image's shorter side, before it is cropped
    flip: bool = True  # horizontally, with probability 0.5
    grayscale: bool = True
    mean: tuple[FiniteFloat, ...]  # per channel after grayscale, of intensities in 0..1
    std: tuple[PositiveFloat, ...]
    # One table for each of views 2, 3, …: the transforms that differ from view 1.
    further_views: tuple[ViewSettings, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an augmented image."""
        return (1 if self.grayscale else 3, self.crop, self.crop)

    def view(self, number: int) -> ViewSettings:
        """Transforms of view `number`, counted from 1; a view without a table has view 1's."""
        return [self, *self.further_views][number - 1] if number <= self.described_views else self

    @property
    def described_views(self) -> int:
        """View 1 and the further views that have tables of their own."""
        return 1 + len(self.further_views)

    @field_validator("further_views")
    @classmethod
    def _complete(
        cls,
        further: tuple[ViewSettings, ...],
        info: Any,  # pydantic's ValidationInfo, a protocol that jaxtyping cannot check
    ) -> tuple[ViewSettings, ...]:
        """Each further view with all of its transforms: those not in its table are view 1's."""
        return tuple(_completed(view, first=info.data) for view in further)

    @model_validator(mode="after")
    def _a_statistic_per_channel(self) -> "CropSettings":
        channels = 1 if self.grayscale else 3
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std must hold {channels} number(s), one per channel")
        return self

    @model_validator(mode="after")
    def _crops_fit_into_resized_images(self) -> "CropSettings":
        if self.resize is not None and self.crop > self.resize:
            raise ValueError(
                f"a crop of {self.crop} pixels does not fit into images that are resized to "
                f"{self.resize}: lower crop, or raise resize"
            )
        return self

    @model_validator(mode="after")
    def _no_colour_transforms_of_gray_images(self) -> "CropSettings":
        if not self.grayscale:
            return self
        for number in range(1, self.described_views + 1):
            view = self.view(number)
            if view.gray:
                raise ValueError(
                    f"gray = {view.gray:g} (view {number}) is for colour images, and grayscale = "
                    f"true makes all images gray: set gray = 0 or grayscale = false"
                )
            if view.jitter and (view.jitter.saturation or view.jitter.hue):
                raise ValueError(
                    f"jitter.saturation = {view.jitter.saturation:g} and jitter.hue = "
                    f"{view.jitter.hue:g} (view {number}) have no effect on gray images: set both "
                    f"to 0, or grayscale = false"
                )
        return self

    @model_validator(mode="after")
    def _blurs_fit(self) -> "CropSettings":
        """The reflected border is narrower than the crop."""
        for number in range(1, self.described_views + 1):
            blur = self.view(number).blur
            if blur and blur.kernel // 2 >= self.crop:
                raise ValueError(
                    f"blur.kernel = {blur.kernel} (view {number}) reaches beyond a crop of "
                    f"{self.crop} pixels: use {2 * self.crop - 1} or less"
                )
        return self


def _completed(view: ViewSettings, *, first: Mapping[str, Any]) -> ViewSettings:
    """The view with its transforms laid over those of view 1, table by table.

    The settings of the view's own table stay those that are set: so the table can be written again
    as the file has it.
    """
    transforms: dict[str, Any] = {}
    for name in ViewSettings.model_fields:
        shared, own = first.get(name), getattr(view, name)
        if name not in view.model_fields_set or own is None:
            transforms[name] = shared
        elif isinstance(own, Settings) and isinstance(shared, Settings):
            differing = {field: getattr(own, field) for field in own.model_fields_set}
            transforms[name] = type(shared).model_construct(
                own.model_fields_set, **{**shared.entries(), **differing}
            )
        else:
            transforms[name] = own
    return ViewSettings.model_construct(view.model_fields_set, **transforms)


class RegionSettings(Settings):
    """Large images: windows at random places of a region; whole places for the probe.

    The region is the square of `side` pixels at the top left of every unlabelled image.
    """

    kind: Literal["region"]
    side: PositiveInt  # pixels
    window: PositiveInt  # pixels; as many as `side`: the whole region is one example
    windows: PositiveInt = 1  # drawn in an epoch
    grayscale: bool = True
    mean: tuple[FiniteFloat, ...]  # per channel after grayscale, of intensities in 0..1
    std: tuple[PositiveFloat, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of a window."""
        return (1 if self.grayscale else 3, self.window, self.window)

    @property
    def extent(self) -> tuple[int, ...]:
        """Rows and columns of the region."""
        return (self.side, self.side)

    @property
    def whole(self) -> bool:
        """Whether an example is the whole region."""
        return self.window == self.side

    def as_whole(self, side: int) -> "RegionSettings":
        """The settings whose example is a whole region of `side` pixels."""
        return self.model_copy(update={"side": side, "window": side})

    @model_validator(mode="after")
    def _a_statistic_per_channel(self) -> "RegionSettings":
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"mean and std must hold {self.shape[0]} number(s), one per channel")
        return self

    @model_validator(mode="after")
    def _windows_fit(self) -> "RegionSettings":
        if self.window > self.side:
            raise ValueError(
                f"a window of {self.window} pixels does not fit into a region of {self.side}: "
                f"lower window, or enlarge side"
            )
        return self


class SpeechSettings(Settings):
    """Windows of speech."""

    samples: PositiveInt = 20_480  # of a window, at 16 kHz
    mean: FiniteFloat = -0.00068  # of samples in -1..1
    std: PositiveFloat = 0.0630

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples of a window."""
        return (self.samples,)

    @model_validator(mode="after")
    def _whole_steps(self) -> "SpeechSettings":
        if self.samples % FRAME_SAMPLES:
            raise ValueError(
                f"samples = {self.samples} is no multiple of {FRAME_SAMPLES}, the 10 ms of a "
                f"phone label"
            )
        return self


class WindowSettings(SpeechSettings):
    """Speech: a window at a random 10 ms place in training; the whole recording for the probe.

    A recording that is shorter than the window is followed by silence.
    """

    kind: Literal["window"]


class StretchSettings(SpeechSettings):
    """Long recordings: windows at random 10 ms places of a stretch; as `window` for the probe.

    The stretch is the first `length` samples of every unlabelled recording.
    """

    kind: Literal["stretch"]
    length: PositiveInt  # samples; as many as `samples`: the whole stretch is one example
    windows: PositiveInt = 1  # drawn in an epoch

    @property
    def extent(self) -> tuple[int, ...]:
        """Samples of the stretch."""
        return (self.length,)

    @property
    def whole(self) -> bool:
        """Whether an example is the whole stretch."""
        return self.samples == self.length

    def as_whole(self, length: int) -> "StretchSettings":
        """The settings whose example is a whole stretch of `length` samples."""
        return self.model_copy(update={"length": length, "samples": length})

    @model_validator(mode="after")
    def _windows_fit(self) -> "StretchSettings":
        if self.samples > self.length:
            raise ValueError(
                f"a window of {self.samples} samples does not fit into a stretch of {self.length}: "
                f"lower samples, or enlarge length"
            )
        return self


# Examples that are read by windows, and never held whole but where an example is the whole.
LargeSettings = RegionSettings | StretchSettings
