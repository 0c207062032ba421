"""Pictures of the image patches that excite the neurons of a finished cell's encoder most.

Source: Löwe et al. 2019, Figure 2. The paper does not say how its neurons were chosen.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from gim_bench import seeding
from gim_bench.cells.bench import Bench
from gim_bench.cells.build import Model, models_of
from gim_bench.cells.cell import Cell
from gim_bench.cells.frozen import files_of, frozen
from gim_bench.contract import Encoder, Images, Split
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import module_name
from gim_bench.probing.patches import Box, most_exciting, receptive_fields, widest
from gim_bench.records.folder import RunsFolder
from gim_bench.records.patches import Drawn, Picture, Pictures, save_pictures, sha256
from gim_bench.records.record import Record
from gim_bench.settings.augmentations import CropSettings, RegionSettings, SpeechSettings
from gim_bench.settings.schema import AugmentationSettings

SHOWN_PIXELS = 48  # a patch is enlarged by a whole factor to about this size
LINE_PIXELS = 2  # between patches
GRAY = 128  # of lines, and beside a patch that the edge of the image cuts


class NoGridError(ConfigError):
    """A row whose encoder has no grid of places, of which there is nothing to draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How many neurons of each module are drawn, with how many patches of how many test images."""

    neurons: int = 8
    patches: int = 8
    images: int = 2000


class Seen(NamedTuple):
    """The test images that are looked at, with their numbers in the test set."""

    images: Images
    numbers: np.ndarray  # [image], ascending


def check_images(suite: str, augmentation: AugmentationSettings) -> None:
    """Raises: ConfigError if the suite is of speech, or of large images."""
    if isinstance(augmentation, SpeechSettings):
        raise ConfigError(
            f"{suite} is a suite of speech: patches are drawn of images alone; name a suite of "
            f"images"
        )
    if isinstance(augmentation, RegionSettings):
        raise ConfigError(f"{suite} is a suite of large images: patches are drawn of small ones")


def draw_patches(
    cell: Cell, record: Record, bench: Bench, *, runs: RunsFolder, sizes: Sizes
) -> Drawn:
    """Draw and save a picture for each module of each encoder of a finished cell.

    The neurons of largest variance over all places of the test images are drawn. Encoder and
    images are read once; all methods and seeds look at the same images.

    Raises: NoGridError; ConfigError if the encoder is damaged or its encodings are not finite.
    """
    check_images(cell.suite, cell.config.augmentation)
    seen = _some(bench, cell, images=sizes.images)
    pictures: list[Picture] = []
    contents: dict[str, bytes] = {}
    for model in models_of(cell, bench):
        encoder = frozen(cell, record, model, bench, runs=runs).encoder
        if not isinstance(encoder, Encoder):
            raise NoGridError(f"{model.name} has no encoder with a grid of places: nothing to draw")
        for picture, content in _pictures(encoder, model, cell, bench, seen=seen, sizes=sizes):
            pictures.append(picture)
            contents[picture.file] = content
    facts = Pictures(
        key=cell.key,
        weights=files_of(record),
        images=len(seen.images),
        pictures=tuple(pictures),
    )
    return save_pictures(facts, contents=contents, folder=runs.folder_of(record))


def _some(bench: Bench, cell: Cell, *, images: int) -> Seen:
    """At most `images` test images, drawn at random but always alike."""
    augmentation = cell.config.augmentation
    assert isinstance(augmentation, CropSettings)
    every = bench.images(Split.TEST, augmentation=augmentation)
    draw = seeding.generator("patches", cell.config.dataset.name)
    numbers = torch.randperm(len(every), generator=draw)[:images].sort().values.numpy()
    chosen = replace(every, images=every.images[numbers], labels={}, sources=None)
    return Seen(chosen, numbers)


def _pictures(
    encoder: Encoder, model: Model, cell: Cell, bench: Bench, *, seen: Seen, sizes: Sizes
) -> Sequence[tuple[Picture, bytes]]:
    """A picture of each module, lowest first."""
    augmentation = cell.config.augmentation
    assert isinstance(augmentation, CropSettings)
    batches = ImageBatches(
        seen.images,
        augmentation=augmentation,
        batch_size=cell.config.training.batch_size,
        stream=cell.stream,
        device=bench.device,
    )
    found = most_exciting(encoder, batches.in_order(), patches=sizes.patches)
    fields = receptive_fields(encoder, shape=augmentation.shape, device=bench.device)
    crops = centre_crops(seen.images.images, size=augmentation.crop)
    drawn = []
    for number, (excited, boxes) in enumerate(zip(found, fields, strict=True)):
        if not excited.variance.isfinite().all():
            raise ConfigError(f"{model.name}: its encodings are not finite: nothing to draw")
        neurons = widest(excited, neurons=sizes.neurons)
        rows = [excited.of_neuron(neuron) for neuron in neurons]
        content = png(
            [[crops[image][_slices(boxes[place])] for image, place in row] for row in rows]
        )
        picture = Picture(
            file=f"{model.prefix}{module_name(number)}.png",
            sha256=sha256(content),
            module=module_name(number),
            neurons=tuple(neurons),
            patches=len(rows[0]),
            size=(max(b.bottom - b.top for b in boxes), max(b.right - b.left for b in boxes)),
            places=tuple(tuple((int(seen.numbers[i]), place) for i, place in row) for row in rows),
        )
        drawn.append((picture, content))
    return drawn


def centre_crops(images: np.ndarray, *, size: int) -> np.ndarray:
    """The part of the images that encoders see: uint8, [image channel size size]."""
    top, left = ((side - size) // 2 for side in images.shape[-2:])
    return images[:, :, top : top + size, left : left + size]


def _slices(box: Box) -> tuple[slice, slice, slice]:
    return slice(None), slice(box.top, box.bottom), slice(box.left, box.right)


def png(rows: Sequence[Sequence[np.ndarray]]) -> bytes:
    """Rows of patches, uint8 [channel row column], as a PNG file; equal patches, equal bytes."""
    from PIL import Image

    height, width = (max(patch.shape[side] for row in rows for patch in row) for side in (1, 2))
    factor = max(1, round(SHOWN_PIXELS / max(height, width)))
    down, across = (factor * side + LINE_PIXELS for side in (height, width))
    canvas = np.full(
        (down * len(rows) + LINE_PIXELS, across * len(rows[0]) + LINE_PIXELS, 3), GRAY, np.uint8
    )
    for i, row in enumerate(rows):
        for j, patch in enumerate(row):
            enlarged = patch.repeat(factor, axis=1).repeat(factor, axis=2).transpose(1, 2, 0)
            top, left = LINE_PIXELS + i * down, LINE_PIXELS + j * across
            canvas[top : top + enlarged.shape[0], left : left + enlarged.shape[1]] = enlarged
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, format="PNG", optimize=True)
    return file.getvalue()
