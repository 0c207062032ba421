"""A training batch from uint8 images: 96×96 RGB to 128 normalised 64×64 crops in gray."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from gim_bench.contract import Batch, Images
from gim_bench.datasets.images.crops import ImageBatches, in_gray
from gim_bench.settings.augmentations import CropSettings

BATCH_SIZE, IMAGES = 128, 1024
MEAN, STD = 0.412, 0.257
GROUP = "a batch of 128 crops, 96×96 RGB to 64×64 gray"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 [image channel row column]."""
    draw = np.random.default_rng(0)
    return draw.integers(256, size=(IMAGES, 3, 96, 96), dtype=np.uint8)


def measure(benchmark: Callable, next_batch: Callable[[], Tensor]) -> None:
    inputs = benchmark.pedantic(next_batch, rounds=10, warmup_rounds=2)
    assert inputs.shape == (BATCH_SIZE, 1, 64, 64)
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
    batches = ImageBatches(
        Images(images=images, labels={}),
        augmentation=CropSettings(kind="crop", crop=64, mean=(MEAN,), std=(STD,)),
        batch_size=BATCH_SIZE,
        stream=("benchmarks", 0),
        device=torch.device("cpu"),
    )

    def endless() -> Iterator[Batch]:
        epoch = 0
        while True:
            epoch += 1
            yield from batches.epoch(epoch)

    stream = endless()
    measure(benchmark, lambda: next(stream).inputs)


@pytest.mark.benchmark(group=f"{IMAGES} images to gray, once for all batches")
def test_to_gray(benchmark, images):
    colour = Images(images=images, labels={})
    gray = benchmark.pedantic(in_gray, args=[colour], rounds=10, warmup_rounds=2)
    assert gray.images.shape == (IMAGES, 1, 96, 96)
    if benchmark.stats is not None:
        benchmark.extra_info["images_per_second"] = round(IMAGES / benchmark.stats["median"])
