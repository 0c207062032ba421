"""A data set on a device, and the checks that it can carry a cell."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gim_bench.cells.cell import Cell
from gim_bench.contract import (
    Dataset,
    Examples,
    Images,
    Modality,
    Recordings,
    Split,
    Target,
    label_frames,
)
from gim_bench.datasets.batches import Batches, whole_batches
from gim_bench.datasets.images.crops import ImageBatches, check_crop, prepared
from gim_bench.datasets.images.regions import PlaceBatches, RegionBatches
from gim_bench.datasets.speech.stretches import StretchBatches
from gim_bench.datasets.speech.windows import WindowBatches
from gim_bench.encoders.tiles import composed, reaches_of
from gim_bench.errors import DataError
from gim_bench.large_images import LargeImages
from gim_bench.progress import Progress
from gim_bench.registry import encoder as encoder_class
from gim_bench.settings.augmentations import (
    FRAME_SAMPLES,
    CropSettings,
    LargeSettings,
    RegionSettings,
    StretchSettings,
)
from gim_bench.settings.schema import CellConfig
from gim_bench.training.agents import Ranks

CHECKPOINT_SECONDS = 60.0
LIVE_SECONDS = 10.0


class Bench:
    """A prepared data set on a device. Cells run on a bench one after another."""

    def __init__(
        self,
        dataset: Dataset,
        *,
        device: torch.device,
        progress: Progress,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        cell_timeout: float | None = None,
        workers: int = 1,
        memory_limit: int | None = None,
        live_seconds: float = LIVE_SECONDS,
        devices: Sequence[str] = (),
    ) -> None:
        """A training writes a checkpoint every `checkpoint_seconds`, and points for those who
        watch it every `live_seconds`.

        A cell that takes longer than `cell_timeout` seconds fails. `workers` processes share
        the machine, this one among them. A process of one cell may hold `memory_limit` bytes.
        `devices` are those of the workers of a training, in order; by default those that there are
        take turns.
        """
        self.dataset = dataset
        self.device = device
        self.progress = progress
        self.checkpoint_seconds = checkpoint_seconds
        self.cell_timeout = cell_timeout
        self.workers = workers
        self.memory_limit = memory_limit
        self.live_seconds = live_seconds
        self.devices = devices
        self.ranks: Ranks | None = None  # where a launcher started several: a worker on each
        self._splits: dict[Split, Examples] = {}
        self._prepared: dict[tuple[Split, bool, int | None], Images] = {}

    def limit(self, cell_seconds: float | None, *, memory_gb: float | None) -> None:
        """Limit the seconds of a cell, and the GB of a process of one cell."""
        self.cell_timeout = cell_seconds
        self.memory_limit = None if memory_gb is None else round(memory_gb * 1e9)

    def every(self, checkpoint_seconds: float, *, live_seconds: float) -> None:
        """Set the seconds between checkpoints, and between points of a cell that trains."""
        self.checkpoint_seconds = checkpoint_seconds
        self.live_seconds = live_seconds

    @cached_property
    def targets(self) -> Sequence[Target]:
        return self.dataset.targets()

    def split(self, split: Split) -> Examples:
        if split not in self._splits:
            self._splits[split] = self.dataset.split(split)
        return self._splits[split]

    def counts(self) -> dict[str, dict[str, int]]:
        """Examples of every split and classes of every target, {"classes": {"class": 10}, …}."""
        return {
            "examples": {split.value: len(self.split(split)) for split in Split},
            "classes": {target.name: len(target.classes) for target in self.targets},
        }

    def images(self, split: Split, *, augmentation: CropSettings) -> Images:
        """Images of one split as they are cropped. Copies are made once, for all cells.

        Of the sizes that images are resized to, the latest alone is kept.
        """
        examples = self.split(split)
        assert isinstance(examples, Images)
        kind = (split, augmentation.grayscale, augmentation.resize)
        if kind not in self._prepared:
            kept = {None, augmentation.resize}
            self._prepared = {k: v for k, v in self._prepared.items() if k[2] in kept}
            self._prepared[kind] = prepared(examples, augmentation=augmentation)
        return self._prepared[kind]

    def batches(
        self,
        cell: Cell,
        split: Split,
        *,
        held_out: float = 0.0,
        without: Int[Tensor, "item"] | None = None,
        whole: bool = False,
    ) -> Batches:
        """Batches of a split for a cell; with `whole`, the probe reads whole recordings."""
        augmentation = cell.config.augmentation
        shared: dict[str, Any] = {
            "batch_size": cell.config.training.batch_size,
            "stream": cell.stream,
            "device": self.device,
            "held_out": held_out,
            "without": without,
            "views": cell.config.method.views,
        }
        if isinstance(augmentation, CropSettings):
            images = self.images(split, augmentation=augmentation)
            return ImageBatches(images, augmentation=augmentation, **shared)
        examples = self.split(split)
        options = cell.config.encoder
        grid = composed(reaches_of(encoder_class(options.kind), options)).stride
        if isinstance(augmentation, RegionSettings):
            assert isinstance(examples, LargeImages)
            if split is not Split.UNLABELLED:
                return PlaceBatches(examples, augmentation=augmentation, **shared)
            return RegionBatches(examples, augmentation=augmentation, grid=grid, **shared)
        assert isinstance(examples, Recordings)
        if isinstance(augmentation, StretchSettings) and split is Split.UNLABELLED:
            grid = math.lcm(grid, FRAME_SAMPLES)
            return StretchBatches(examples, augmentation=augmentation, grid=grid, **shared)
        return WindowBatches(examples, augmentation=augmentation, whole=whole, **shared)

    def items(self, config: CellConfig, split: Split) -> int:
        """Images, recordings, or windows of large examples that an epoch of a split visits."""
        if isinstance(config.augmentation, LargeSettings) and split is Split.UNLABELLED:
            return config.augmentation.windows
        return len(self.split(split))

    def check(self, config: CellConfig) -> None:
        """Check that the data can carry the cell, before training. Raises: DataError."""
        name = config.dataset.name
        noun = "image" if self.dataset.modality is Modality.IMAGE else "recording"
        self._check_size(config)
        for target in self.targets:
            if len(target.classes) < 2:
                raise DataError(
                    f"{name} has {len(target.classes)} {target.name}(s): a probe needs at least "
                    f"two different ones"
                )
        is_long = isinstance(config.augmentation, StretchSettings)  # few recordings are enough
        for split in (Split.UNLABELLED, Split.TRAIN):
            if is_long and config.method.trains_on != split:
                continue
            found, needed = self.items(config, split), config.training.batch_size
            held_out = config.training.held_out
            if not whole_batches(found, batch_size=needed, held_out=held_out):
                left = found - round(found * held_out)
                less = f" of which {left} are not held out," if held_out else ""
                remedies = [f"add {noun}s"]
                if left:
                    remedies.append(f"lower it with --set training.batch_size={left}")
                elif found:
                    remedies.append("lower training.held_out")
                raise DataError(
                    f"{name} has {found} {split} {noun}s,{less} fewer than one batch of {needed}: "
                    f"{', or '.join(remedies)}"
                )
        self._check_held_out(config, noun=noun)
        if not len(self.split(Split.TEST)):
            raise DataError(f"{name} has no test {noun}s: add some")
        if isinstance(config.augmentation, CropSettings) and config.augmentation.resize is None:
            for split in Split:
                images = self.split(split)
                assert isinstance(images, Images)
                where = f"the {split} images of {name}"
                check_crop(images, crop=config.augmentation.crop, name=where)
        share = 1.0 if config.probe is None else config.probe.labelled_fraction
        for target in self.targets:
            self._check_labels(target, name=name, noun=noun, share=share)

    def _check_size(self, config: CellConfig) -> None:
        """Large images are read by windows, and small ones are not. Raises: DataError."""
        name, augmentation = config.dataset.name, config.augmentation
        unlabelled = self.split(Split.UNLABELLED)
        if isinstance(unlabelled, LargeImages) != isinstance(augmentation, RegionSettings):
            large = isinstance(unlabelled, LargeImages)
            raise DataError(
                f"{name} has {'large' if large else 'no large'} images, and an augmentation of "
                f"kind {augmentation.kind!r} is not for them: use another dataset.name, or "
                f"augmentation.kind={'region' if large else 'crop'}"
            )
        if not isinstance(augmentation, LargeSettings):
            return
        if config.method.views > 1 or config.training.held_out:
            examples = "large images" if isinstance(unlabelled, LargeImages) else "long recordings"
            raise DataError(
                f"{name}: windows of {examples} come in one view, and no window is held out: "
                f"leave out {config.method.name}, or set training.held_out=0"
            )
        if isinstance(unlabelled, Recordings):
            self._check_lengths(unlabelled, config)
            return
        assert isinstance(unlabelled, LargeImages)
        assert isinstance(augmentation, RegionSettings)
        place = (*augmentation.shape[:1], unlabelled.place, unlabelled.place)
        options = config.encoder
        if min(encoder_class(options.kind).rows(options, shape=place)) < 1:
            raise DataError(
                f"{name}: places of {unlabelled.place} pixels are too small for the encoder "
                f"{options.kind}: enlarge dataset.place"
            )
        for number, image in enumerate(unlabelled.images, start=1):
            _, height, width = image.shape
            if min(height, width) < augmentation.side:
                raise DataError(
                    f"a region of {augmentation.side} pixels does not fit into unlabelled image "
                    f"{number} of {name}, {height}×{width}: lower augmentation.side, or leave its "
                    f"rows out with --method"
                )

    def _check_lengths(self, recordings: Recordings, config: CellConfig) -> None:
        """Every recording is as long as the stretch that is trained on. Raises: DataError."""
        augmentation = config.augmentation
        assert isinstance(augmentation, StretchSettings)
        lengths = recordings.lengths
        if lengths.min(initial=augmentation.length) < augmentation.length:
            shortest = int(lengths.argmin())
            raise DataError(
                f"a stretch of {augmentation.length:,} samples does not fit into unlabelled "
                f"recording {shortest + 1} of {config.dataset.name}, which has "
                f"{lengths[shortest]:,} samples: lower augmentation.length, or leave its rows out "
                f"with --method"
            )

    def _check_held_out(self, config: CellConfig, *, noun: str) -> None:
        share, batch_size = config.training.held_out, config.training.batch_size
        if not share or config.method.trains_on == "none":
            return
        split = Split(config.method.trains_on)
        held_out = round(len(self.split(split)) * share)
        if held_out < batch_size:
            raise DataError(
                f"training.held_out = {share:g} holds out {held_out} {split} {noun}(s) of "
                f"{config.dataset.name}, fewer than one batch of {batch_size}: raise held_out, or "
                f"set it to 0 for no validation loss"
            )

    def _check_labels(self, target: Target, *, name: str, noun: str, share: float) -> None:
        for split, needed in ((Split.TRAIN, 2), (Split.TEST, 1)):
            found = sum(1 for _ in islice(labelled(self.split(split), target), needed))
            if found < needed:
                raise DataError(
                    f"{name} has {found} {split} {noun}(s) with a {target.name} label where a "
                    f"probe needs {needed} or more: label more"
                )
        if not target.per_step and most_sources(self.split(Split.TRAIN), target, share=share) < 2:
            raise DataError(
                f"{name} has a single train {noun} with a label for each {target.name}, where a "
                f"probe needs one to fit and another to choose a learning rate: label a second "
                f"{noun} of one {target.name} or more"
            )


def maker_of(dataset: Dataset) -> Callable[[], Dataset]:
    """A function that makes the data set again in another process, without its progress."""
    return maker_in(dataset.data_dir, like=dataset)


def maker_in(data_dir: Path | None, *, like: Dataset) -> Callable[[], Dataset]:
    """A function that makes the data set from that folder in another process."""
    return partial(
        type(like), options=like.options, data_dir=data_dir, cache_dir=like.given_cache_dir
    )


def labelled(examples: Examples, target: Target) -> Iterator[np.ndarray]:
    """Labels of each image or recording that has a label of the target."""
    return (labels for labels in _labels_of_each(examples, target) if np.any(labels >= 0))


def most_sources(examples: Examples, target: Target, *, share: float) -> int:
    """Sources of the class that has most of them, where a probe knows a share of the labels."""
    labels = examples.labels[target.name]
    sources = np.arange(len(labels)) if examples.sources is None else examples.sources
    known = labels >= 0
    classes, _ = np.unique(np.stack([labels, sources])[:, known], axis=1)
    kept = np.maximum(1, np.round(share * np.bincount(labels[known])))
    return int(np.minimum(np.bincount(classes), kept).max())


def _labels_of_each(examples: Examples, target: Target) -> Iterator[np.ndarray]:
    """Labels of a target, image by image or recording by recording."""
    if not target.per_step:
        yield from examples.labels[target.name]
        return
    assert isinstance(examples, Recordings)
    end = 0
    for length in examples.lengths:
        start, end = end, end + label_frames(int(length))
        yield examples.frames[target.name][start:end]
