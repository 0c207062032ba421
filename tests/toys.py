"""A toy encoder with batch norm and dropout, a toy method with two views, and cases of both."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from gim_bench import registry
from gim_bench.contract import (
    Encoder,
    GradientFlow,
    Images,
    Modality,
    Objective,
    Split,
    Traits,
)
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.methods.stack import StackLearner
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.settings.augmentations import CropSettings
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import EncoderSettings, Recompute
from gim_bench.testing.cases import CLASS, Case, EncoderCase

CROP, BATCH_SIZE = 16, 4
WIDTH = 4
# Tiles are recomputed only by encoders that pad nothing.
OF_ANY_ENCODER = tuple(each for each in Recompute if each is not Recompute.TILES)


class ToySettings(EncoderSettings):
    """Whether there are batch norm and dropout, and whether patches of an image see each other."""

    kind: Literal["toy"] = "toy"
    modules: int = 2
    norm: bool = False
    dropout: bool = False
    mixing: bool = False


class Mixing(nn.Module):
    """Adds to each patch the mean over the four patches of its image."""

    def forward(self, x):
        means = rearrange(x, "(image patch) d h w -> image patch d h w", patch=4).mean(1)
        return x + means.repeat_interleave(4, dim=0)


class ToyEncoder(Encoder):
    """Modules on the four quarters of an image; each halves rows and columns."""

    modality = Modality.IMAGE
    Options = ToySettings

    def __init__(self, options, *, shape):
        super().__init__(options, shape=shape)
        self.dims = (WIDTH,) * options.modules
        stages = []
        for below in (shape[0], *self.dims[:-1]):
            layers = [nn.Conv2d(below, WIDTH, kernel_size=3, stride=2, padding=1)]
            layers += [nn.BatchNorm2d(WIDTH)] if options.norm else []
            layers += [nn.Dropout(0.3)] if options.dropout else []
            layers += [Mixing()] if options.mixing else []
            stages.append(nn.Sequential(*layers, nn.Softplus()))
        self.stages = nn.ModuleList(stages)

    @classmethod
    def rows(cls, options, *, shape):
        return [shape[1] // 2**module for module in range(1, options.modules + 1)]

    @classmethod
    def examples_are_independent(cls, options):
        return not options.norm

    def prepare(self, inputs):
        return rearrange(inputs, "image c (r h) (s w) -> (image r s) c h w", r=2, s=2)

    def pool(self, activations, *, batch_size):
        return rearrange(activations, "(image r s) d h w -> image (r h) (s w) d", r=2, s=2)

    def steps(self, z, *, module):
        return z.flatten(1, 2).mean(dim=1, keepdim=True)


def distance(one, other):
    """One minus the mean cosine."""
    one, other = (x.to(at_least_fp32(x.dtype)) for x in (one, other))
    return 1 - F.cosine_similarity(one, other, dim=-1).mean()


class Agreeing(StackLearner):
    """The distance of the projections of two views."""

    traits = Traits(
        objective=Objective(name="agreement"),
        gradient_flow=GradientFlow.ISOLATED,
        either_flow=True,
        trains_on=Split.UNLABELLED,
        views=2,
    )

    def head(self, module, ingredients):
        return nn.Linear(self.encoder.dims[module], 5, bias=False)

    def loss(self, head, views, batch):
        return distance(*(head(self.encoder.steps(v.c, module=v.module)) for v in views))


class Drawing(Agreeing):
    """Noise on the loss, from the stream of the unit."""

    def loss(self, head, views, batch):
        stream = self.streams[list(self.streams)[views[0].module]]
        return super().loss(head, views, batch) * (1 + torch.rand((), generator=stream))


def toy_case(
    method="gim",
    *,
    gradient_flow=None,
    **encoder,
) -> Case:
    """A method, by its name or its class, on the toy encoder."""
    kind = registry.method(method) if isinstance(method, str) else method
    objective = kind.traits.objective
    contrastive = objective is not None and objective.settings is InfoNCESettings
    return Case(
        name=method if isinstance(method, str) else method.__name__,
        method=kind,
        options=kind.Options(),
        objective=InfoNCESettings(prediction_steps=1, skip_rows=0, negatives=4)
        if contrastive
        else Settings(),
        gradient_flow=gradient_flow or kind.traits.gradient_flow,
        target=CLASS,
        on=EncoderCase(encoder=ToyEncoder, options=ToySettings(**encoder), shape=(1, CROP, CROP)),
    )


def toy_batches(*, views=1) -> ImageBatches:
    """13 random images: three batches of four an epoch, and one image left over."""
    side = CROP + 4
    pixels = np.random.default_rng(0).integers(0, 256, (13, 1, side, side), dtype=np.uint8)
    return ImageBatches(
        Images(images=pixels, labels={"class": np.arange(13) % 3}),
        augmentation=CropSettings(kind="crop", crop=CROP, mean=(0.5,), std=(0.3,)),
        batch_size=BATCH_SIZE,
        stream=("random", 0),
        device=torch.device("cpu"),
        views=views,
    )
