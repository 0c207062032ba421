"""Barlow Twins, end to end and block by block."""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from gim_bench.contract import Batch, GradientFlow, Ingredients, Modality, Split, Traits
from gim_bench.methods.stack import Encodings, StackLearner, module_name
from gim_bench.objectives.barlow_twins import (
    BARLOW_TWINS,
    BarlowTwinsHead,
    BarlowTwinsSettings,
    Pooling,
)
from gim_bench.settings.base import PositiveInt, Settings

PROJECTOR_LAYERS, PROJECTOR_FACTOR = 3, 4  # 8192-8192-8192 on the 2048 channels of a ResNet-50


class Reads(StrEnum):
    """What a probe reads."""

    ENCODINGS = "encodings"  # as of every method of a suite
    HEAD = "head"  # of modules with a head: what the projector is given


class BarlowTwins(StackLearner):
    """One Barlow Twins loss at the top, on two augmented views, trains all modules end to end.

    Source: Zbontar et al. 2021.
    """

    traits = Traits(
        objective=BARLOW_TWINS,
        gradient_flow=GradientFlow.END_TO_END,
        either_flow=True,
        trains_on=Split.UNLABELLED,
        views=2,
        modalities=frozenset({Modality.IMAGE}),
    )

    shares_losses = True

    class Options(Settings):
        """The head of a unit, and the noise on what a unit gives. Sizes follow from the encoder."""

        pooling: Pooling = Pooling.GLOBAL
        width: PositiveInt | None = None  # of pooling; None: the channels of the top module
        # Sizes of the layers; None: three layers, four times as wide as the top module.
        projector: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
        # Standard deviation of Gaussian noise on the output of a unit in training, in standard
        # deviations of that output. The head and the unit above get the noisy output.
        noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
        probe_reads: Reads = Reads.ENCODINGS

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__(ingredients)
        assert isinstance(ingredients.options, self.Options)
        self.noise = ingredients.options.noise
        self.probe_reads = ingredients.options.probe_reads
        # Projectors of their own, but alike at the start: as in the released code.
        first, *others = (cast(BarlowTwinsHead, head).projector for head in self.heads.values())
        for projector in others:
            if _sizes(projector) == _sizes(first):
                projector.load_state_dict(first.state_dict())

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        options, top = ingredients.options, self.encoder.dims[-1]
        assert isinstance(options, self.Options)
        assert isinstance(ingredients.objective, BarlowTwinsSettings)
        return BarlowTwinsHead(
            self.encoder.dims[module],
            pooling=options.pooling,
            width=options.width or top,
            projector=options.projector or [PROJECTOR_FACTOR * top] * PROJECTOR_LAYERS,
            settings=ingredients.objective,
        )

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        one, other = views
        return head(one.c, other.c)

    def handed_on(self, activations: Tensor) -> Tensor:
        """The output with noise, which is drawn from PyTorch's generator as dropout is.

        On a CPU `randn_like` takes five times as long for channels-last activations.
        """
        if not self.training or self.noise == 0:
            return activations
        normal = torch.randn(activations.shape, device=activations.device).to(activations.dtype)
        return activations + self.noise * activations.std() * normal

    def read(
        self, z: Float[Tensor, "example row column d"], *, module: int
    ) -> Float[Tensor, "example step e"]:
        from_head = self.probe_reads is Reads.HEAD
        found = self.head_output(z, module=module) if from_head else None
        return super().read(z, module=module) if found is None else found

    def head_output(
        self, z: Float[Tensor, "example row column d"], *, module: int
    ) -> Float[Tensor, "example step e"] | None:
        name = module_name(module)
        if name not in self.heads:
            return None
        return cast(BarlowTwinsHead, self.heads[name]).pooled(z)[:, None]

    def read_heads(self) -> nn.ModuleDict:
        heads = {name: cast(BarlowTwinsHead, head) for name, head in self.heads.items()}
        return nn.ModuleDict({name: head.pool for name, head in heads.items()})


class BlockwiseBarlowTwins(BarlowTwins):
    """Every module has a Barlow Twins loss of its own; no gradient passes between modules.

    Source: Siddiqui et al. 2023, the best of its variants: pooling with a convolution, and noise.
    """

    traits = replace(BarlowTwins.traits, gradient_flow=GradientFlow.ISOLATED)

    class Options(BarlowTwins.Options):
        """The head of a unit, and the noise on what a unit gives. Sizes follow from the encoder."""

        pooling: Pooling = Pooling.CONV
        noise: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.25


def _sizes(projector: nn.Sequential) -> list[torch.Size]:
    return [parameter.shape for parameter in projector.parameters()]
