"""A training batch from uint8 images of 96×96: 128 normalised crops of 64×64.

In gray and plainly cropped; and in colour, as BYOL's two augmented views.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from gim_bench.contract import Batch, Images
from gim_bench.datasets.images.crops import ImageBatches, in_gray
from gim_bench.settings.augmentations import (
    BlurSettings,
    CropSettings,
    JitterSettings,
    ResizedSettings,
    SolariseSettings,
    ViewSettings,
)

BATCH_SIZE, IMAGES = 128, 1024
MEAN, STD = 0.412, 0.257
GROUP = "a batch of 128 crops, 96×96 RGB to 64×64 gray"
TWO_VIEWS = "a batch of 128 images in BYOL's two views, 96×96 to 64×64 RGB"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 [image channel row column]."""
    draw = np.random.default_rng(0)
    return draw.integers(256, size=(IMAGES, 3, 96, 96), dtype=np.uint8)


def measure(
    benchmark: Callable,
    next_batch: Callable[[], Tensor],
    *,
    shape: tuple[int, ...] = (BATCH_SIZE, 1, 64, 64),
    rounds: int = 10,
) -> None:
    inputs = benchmark.pedantic(next_batch, rounds=rounds, warmup_rounds=2)
    assert inputs.shape == shape
    if benchmark.stats is not None:  # absent with --benchmark-disable
        benchmark.extra_info["images_per_second"] = round(BATCH_SIZE / benchmark.stats["median"])


@pytest.mark.benchmark(group=GROUP)
def test_image_by_image_with_pil(benchmark, images):
    """Torchvision's usual pipeline, in one process as ours."""
    augment = transforms.Compose(
        [
            transforms.RandomCrop(64),
            transforms.RandomHorizontalFlip(),
            transforms.Grayscale(),
            transforms.ToTensor(),
            transforms.Normalize([MEAN], [STD]),
        ]
    )
    draw = np.random.default_rng(0)

    def next_batch() -> Tensor:
        chosen = draw.integers(IMAGES, size=BATCH_SIZE)
        return torch.stack([augment(Image.fromarray(images[i].transpose(1, 2, 0))) for i in chosen])

    measure(benchmark, next_batch)


@pytest.mark.benchmark(group=GROUP)
def test_ours(benchmark, images):
    """Out of images in gray, which are made once, before the first batch: timed below."""
    gray = CropSettings(kind="crop", crop=64, mean=(MEAN,), std=(STD,))
    stream = endless(images, gray, views=1)
    measure(benchmark, lambda: next(stream).inputs)


def endless(images: np.ndarray, augmentation: CropSettings, *, views: int) -> Iterator[Batch]:
    """Batches of one epoch after the other."""
    batches = ImageBatches(
        Images(images=images, labels={}),
        augmentation=augmentation,
        batch_size=BATCH_SIZE,
        stream=("benchmarks", 0),
        device=torch.device("cpu"),
        views=views,
    )
    for epoch in itertools.count(1):
        yield from batches.epoch(epoch)


# -- two views -----------------------------------------------------------------------------------

KERNEL = 7  # a tenth of 64 pixels, as BYOL's 23 are of 224


@pytest.mark.benchmark(group=TWO_VIEWS)
def test_two_views_image_by_image_with_torchvision(benchmark, images):
    """On uint8 tensors, as its documentation advises, and in one process as ours."""

    def pipeline(*, blurred: float, solarised: float) -> v2.Compose:
        return v2.Compose(
            [
                v2.RandomResizedCrop(64, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(KERNEL, (0.1, 2.0))], p=blurred),
                v2.RandomSolarize(128, p=solarised),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize([MEAN] * 3, [STD] * 3),
            ]
        )

    views = [pipeline(blurred=1.0, solarised=0.0), pipeline(blurred=0.1, solarised=0.2)]
    draw = np.random.default_rng(0)

    def next_batch() -> Tensor:
        chosen = draw.integers(IMAGES, size=BATCH_SIZE)
        found = [[view(torch.from_numpy(images[i])) for i in chosen] for view in views]
        return torch.stack([torch.stack(view) for view in found])

    measure(benchmark, next_batch, shape=(2, BATCH_SIZE, 3, 64, 64), rounds=5)


@pytest.mark.benchmark(group=TWO_VIEWS)
def test_two_views_of_ours(benchmark, images):
    byol = CropSettings(
        kind="crop",
        crop=64,
        grayscale=False,
        mean=(MEAN,) * 3,
        std=(STD,) * 3,
        resized=ResizedSettings(),
        jitter=JitterSettings(),
        gray=0.2,
        blur=BlurSettings(kernel=KERNEL),
        further_views=(
            ViewSettings(blur=BlurSettings(probability=0.1), solarise=SolariseSettings()),
        ),
    )
    stream = endless(images, byol, views=2)
    shape = (2, BATCH_SIZE, 3, 64, 64)
    measure(benchmark, lambda: torch.stack(next(stream).views), shape=shape)


@pytest.mark.benchmark(group=f"{IMAGES} images to gray, once for all batches")
def test_to_gray(benchmark, images):
    colour = Images(images=images, labels={})
    gray = benchmark.pedantic(in_gray, args=[colour], rounds=10, warmup_rounds=2)
    assert gray.images.shape == (IMAGES, 1, 96, 96)
    if benchmark.stats is not None:
        benchmark.extra_info["images_per_second"] = round(IMAGES / benchmark.stats["median"])
