"""Everything of a batch that goes from the CPU to the device goes as `moved` moves it.

The device is PyTorch's "meta", which computes shapes and no values.
"""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gim_bench.contract import Images, Recordings
from gim_bench.datasets.images import augmentations, crops
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.datasets.speech import windows
from gim_bench.datasets.speech.windows import WindowBatches
from gim_bench.hardware.transfers import moved
from gim_bench.settings.augmentations import (
    BlurSettings,
    CropSettings,
    JitterSettings,
    ResizedSettings,
    SolariseSettings,
    WindowSettings,
)

META = torch.device("meta")
VIEW = {"jitter": JitterSettings(probability=0.5), "blur": BlurSettings(kernel=3), "gray": 0.5,
        "solarise": SolariseSettings(), "cutout": 4}  # fmt: skip


class Copies(TorchDispatchMode):
    """Counts the operators that are given tensors of the CPU and return one of the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if isinstance(result, torch.Tensor) and result.device == META:
            self.count += any(each.device.type == "cpu" and each.dim() for each in given)
        return result


@pytest.fixture
def moves(monkeypatch):
    """The tensors that went from the CPU to the device by `moved`."""
    found = []

    def noting(values, *, device):
        if values.device != device:
            found.append(values)
        return moved(values, device=device)

    for module in (augmentations, crops, windows):
        monkeypatch.setattr(module, "moved", noting)
    return found


def image_batches(**settings):
    pixels = np.random.default_rng(0).integers(256, size=(8, 3, 20, 20), dtype=np.uint8)
    return ImageBatches(
        Images(images=pixels, labels={"class": np.arange(8)}),
        augmentation=CropSettings(
            kind="crop", crop=16, mean=(0.5,) * 3, std=(0.3,) * 3, grayscale=False, **settings
        ),
        batch_size=8,
        stream=("random", 0),
        device=META,
    )


def resident(batches):
    """The batches as on a GPU, which holds the images."""
    batches.images = batches.images.to(META)
    return batches


def window_batches():
    samples = np.random.default_rng(0).integers(-99, 99, 16_000, dtype=np.int16)
    return WindowBatches(
        Recordings(
            samples=samples,
            starts=np.arange(4) * 4_000,
            lengths=np.full(4, 4_000),
            labels={"speaker": np.arange(4)},
            frames={},
        ),
        augmentation=WindowSettings(kind="window", samples=3_200, mean=0.0, std=0.1),
        batch_size=4,
        stream=("random", 0),
        device=META,
    )


@pytest.mark.parametrize(
    "make",
    [
        image_batches,
        lambda: image_batches(resized=ResizedSettings(), **VIEW),
        lambda: resident(image_batches(**VIEW)),
        lambda: resident(image_batches(resized=ResizedSettings())),
        window_batches,
    ],
)
def test_all_that_a_batch_needs_on_the_device_goes_there_by_moved(make, moves):
    batches = make()
    next(batches.epoch(1))  # makes the constants
    moves.clear()
    with Copies() as copies:
        batch = next(batches.epoch(2))
    assert batch.inputs.device == META
    assert copies.count == len(moves) > 0
