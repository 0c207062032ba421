"""A large image and a long recording, and learners on windows of them, for the tests of tiling."""

import numpy as np
import torch

from gim_bench import seeding
from gim_bench.contract import GradientFlow, Ingredients, Recordings, Target
from gim_bench.datasets.images.regions import RegionBatches
from gim_bench.datasets.speech.stretches import StretchBatches
from gim_bench.encoders.conv_gru import ConvGRUEncoder, ConvGRUSettings
from gim_bench.encoders.pyramid import Pyramid, PyramidSettings
from gim_bench.large_images import LargeImages
from gim_bench.methods.gim import GreedyInfoMax
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.progress import Silence
from gim_bench.settings.augmentations import RegionSettings, StretchSettings
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import Precision, Recompute, Schedule
from gim_bench.training.loop import fit
from gim_bench.training.trainer import Trainer
from tests.tiny_suite import CPU

SETTINGS = PyramidSettings(kind="pyramid", width=4, kernels=(4, 3), strides=(2, 2))
STRIDE = 4  # pixels from one encoding at the top to the next
SIDE, WINDOW = 180, 44
# Of a recording: a length that no stride divides, and 20 steps of 10 ms.
LENGTH, SAMPLES = 9_037, 3_200
NO_PADDING = (0, 0, 0, 0, 0)


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


def hiss(*lengths, seed=0):
    """Recordings of noise, in one array."""
    draw = np.random.default_rng(seed)
    ends = np.cumsum(lengths)
    return Recordings(
        samples=draw.integers(-3000, 3000, ends[-1], dtype=np.int16),
        starts=ends - lengths,
        lengths=np.array(lengths),
        labels={},
        frames={},
    )


def stretches(recordings=None, *, length=LENGTH, samples=SAMPLES, windows=6, batch_size=3):
    """Random windows of unlabelled recordings."""
    augmentation = StretchSettings(
        kind="stretch", length=length, samples=samples, windows=windows, mean=0.0, std=0.05
    )
    return StretchBatches(
        recordings or hiss(LENGTH),
        augmentation=augmentation,
        batch_size=batch_size,
        stream=("hiss", 0),
        device=CPU,
    )


def learner(*, flow=GradientFlow.ISOLATED, recompute=Recompute.NOTHING, rows=WINDOW):
    """GIM on a pyramid of two modules; the same weights and negatives at every call."""
    shape = (1, rows, rows)
    with seeding.weights_from("tests"):
        encoder = Pyramid(SETTINGS, shape=shape)
    return learner_on(encoder, shape=shape, flow=flow, recompute=recompute)


def speech_learner(*, flow=GradientFlow.ISOLATED, recompute=Recompute.NOTHING, paddings=NO_PADDING):
    """GIM on the paper's convolutions and a GRU; the same weights and negatives at every call."""
    settings = ConvGRUSettings(kind="conv_gru", width=4, context=3, paddings=paddings)
    with seeding.weights_from("tests"):
        encoder = ConvGRUEncoder(settings, shape=(SAMPLES,))
    return learner_on(encoder, shape=(SAMPLES,), flow=flow, recompute=recompute)


def learner_on(encoder, *, shape, flow, recompute):
    with seeding.weights_from("tests, heads"):
        return GreedyInfoMax(
            Ingredients(
                encoder=encoder,
                shape=shape,
                target=Target(name="class", classes=["a", "b"]),
                objective=InfoNCESettings(prediction_steps=2, negatives=4),
                options=Settings(),
                gradient_flow=flow,
                stream=lambda _unit: torch.Generator().manual_seed(0),
                recompute=recompute,
            )
        )


def trainer_of(found):
    return Trainer(
        found,
        learning_rate=1e-2,
        schedule=Schedule.SEQUENTIAL,
        precision=Precision.FP32,
        device=CPU,
    )


def weights_after(steps, found, batches, *, keeper=None):
    """The learner's weights once each of its modules was trained for so many steps."""
    fit(trainer_of(found), batches, steps=steps, title="", progress=Silence(), keeper=keeper)
    return [parameter.detach() for parameter in found.parameters()]
