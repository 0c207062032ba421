"""The learner that most methods are: an objective times a gradient flow.

A stack's modules are grouped into *units*, each trained by one loss at its top. Isolated flow makes
every module a unit of its own; end-to-end flow makes one unit of them all. Gradients are stopped
at the entrance of every unit, and nowhere else in this project.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Encoder, GradientFlow, Ingredients, Learner


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive modules, first to last counted from 0, that one loss trains."""

    first: int
    last: int

    @property
    def name(self) -> str:
        return module_name(self.last)


def module_name(index: int) -> str:
    """Name of the module with that index in metrics and tables: counted from 1."""
    return f"module_{index + 1}"


def partition(modules: int, flow: GradientFlow) -> list[Unit]:
    """The units of a stack of `modules` under that gradient flow."""
    match flow:
        case GradientFlow.ISOLATED:
            return [Unit(m, m) for m in range(modules)]
        case GradientFlow.END_TO_END:
            return [Unit(0, modules - 1)]
        case GradientFlow.NONE:
            return []


@dataclass(frozen=True, slots=True)
class Encodings:
    """What a unit's loss is made of: targets z and contexts c, the same but for an autoregressor.

    An autoregressor's contexts predict the encodings of the module below it.
    """

    z: Float[Tensor, "example row column d"]
    c: Float[Tensor, "example row column e"]
    module: int  # that c comes from, counted from 0


class StackLearner(Learner):
    """An encoder whose units are each trained by a head of their own; subclasses give the head."""

    encoder: Encoder

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__()
        self.encoder = self.adapted(ingredients.encoder)
        self.target = ingredients.target
        self.partition = partition(len(self.encoder.stages), self.traits.gradient_flow)
        self.heads = nn.ModuleDict(
            {unit.name: self.head(unit.last, ingredients) for unit in self.partition}
        )

    def adapted(self, encoder: Encoder) -> Encoder:
        """The suite's encoder as this method uses it; an ablation changes it, and declares that."""
        return encoder

    @abstractmethod
    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        """A new head for a unit whose topmost module is `module`, counted from 0."""

    @abstractmethod
    def loss(self, head: nn.Module, encodings: Encodings, batch: Batch) -> Float[Tensor, ""]:
        """What `head` makes of its unit's encodings."""

    def target_dim(self, module: int) -> int:
        """Channels of the encodings z that `module` predicts."""
        return self.encoder.dims[module - 1 if self._predicts_below(module) else module]

    def losses(self, batch: Batch) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        activations = self.encoder.prepare(batch.inputs)
        for unit in self.partition:
            # The GradientBlock of the paper's section 3.
            encodings, activations = self._through(unit, activations.detach(), len(batch.inputs))
            yield unit.name, self.loss(self.heads[unit.name], encodings, batch)

    def units(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {
            unit.name: [
                *self.encoder.stages[unit.first : unit.last + 1].parameters(),
                *self.heads[unit.name].parameters(),
            ]
            for unit in self.partition
        }

    @torch.no_grad()
    def features(
        self, inputs: Float[Tensor, "example *shape"]
    ) -> Mapping[str, Float[Tensor, "example step d"]]:
        activations = self.encoder.prepare(inputs)
        found = {}
        for m, stage in enumerate(self.encoder.stages):
            activations = stage(activations)
            z = self.encoder.pool(activations, batch_size=len(inputs))
            found[module_name(m)] = self.encoder.steps(z, module=m)
        return found

    def _through(
        self, unit: Unit, activations: Tensor, batch_size: int
    ) -> tuple[Encodings, Tensor]:
        """The unit's encodings, and its activations for the unit above."""
        below = activations
        for stage in self.encoder.stages[unit.first : unit.last + 1]:
            below, activations = activations, stage(activations)
        c = self.encoder.pool(activations, batch_size=batch_size)
        z = (
            self.encoder.pool(below, batch_size=batch_size)
            if self._predicts_below(unit.last)
            else c
        )
        return Encodings(z, c, module=unit.last), activations

    def _predicts_below(self, module: int) -> bool:
        return self.encoder.autoregressive and module == len(self.encoder.stages) - 1
