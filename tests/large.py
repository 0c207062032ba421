"""A large image in memory, and learners that look at its windows, for the tests of tiling."""

import numpy as np
import torch

from gim_bench import seeding
from gim_bench.contract import GradientFlow, Ingredients, Target
from gim_bench.datasets.images.regions import RegionBatches
from gim_bench.encoders.pyramid import Pyramid, PyramidSettings
from gim_bench.large_images import LargeImages
from gim_bench.methods.gim import GreedyInfoMax
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.settings.augmentations import RegionSettings
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import Recompute
from tests.tiny_suite import CPU

SETTINGS = PyramidSettings(kind="pyramid", width=4, kernels=(4, 3), strides=(2, 2))
STRIDE = 4  # pixels from one encoding at the top to the next
SIDE, WINDOW = 180, 44


class InMemory:
    """An image that is read by windows, and remembers which."""

    def __init__(self, pixels):
        self.pixels = pixels
        self.read = []

    @property
    def shape(self):
        return self.pixels.shape

    def window(self, top, left, *, height, width):
        self.read.append((height, width))
        return self.pixels[:, top : top + height, left : left + width].copy()


def noise(*, channels=1, rows=SIDE, columns=SIDE, seed=0):
    """An image of random pixels."""
    draw = np.random.default_rng(seed)
    return InMemory(draw.integers(0, 256, (channels, rows, columns), dtype=np.uint8))


def regions(*images, side=SIDE, window=WINDOW, windows=6, batch_size=3, grid=STRIDE):
    """Random windows of unlabelled images."""
    augmentation = RegionSettings(
        kind="region", side=side, window=window, windows=windows, mean=(0.5,), std=(0.3,)
    )
    return RegionBatches(
        LargeImages(images=images or (noise(),), place=20, labels={}),
        augmentation=augmentation,
        batch_size=batch_size,
        stream=("noise", 0),
        device=CPU,
        grid=grid,
    )


def learner(*, flow=GradientFlow.ISOLATED, recompute=Recompute.NOTHING, rows=WINDOW):
    """GIM on a pyramid of two modules; the same weights and negatives at every call."""
    shape = (1, rows, rows)
    with seeding.weights_from("tests"):
        return GreedyInfoMax(
            Ingredients(
                encoder=Pyramid(SETTINGS, shape=shape),
                shape=shape,
                target=Target(name="class", classes=["a", "b"]),
                objective=InfoNCESettings(prediction_steps=2, negatives=4),
                options=Settings(),
                gradient_flow=flow,
                stream=lambda _unit: torch.Generator().manual_seed(0),
                recompute=recompute,
            )
        )
