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

from gim_bench.contract import Batch, GradientFlow, Ingredients, Learner


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


class StackLearner(Learner):
    """An encoder whose units are each trained by a head of their own; subclasses give the head."""

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__()
        self.encoder = ingredients.encoder
        self.partition = partition(len(self.encoder.stages), self.traits.gradient_flow)
        self.heads = nn.ModuleDict(
            {
                unit.name: self.head(self.encoder.dims[unit.last], ingredients)
                for unit in self.partition
            }
        )

    @abstractmethod
    def head(self, dim: int, ingredients: Ingredients) -> nn.Module:
        """A new head for a unit whose encodings have `dim` channels."""

    @abstractmethod
    def loss(
        self, head: nn.Module, z: Float[Tensor, "image row column d"], batch: Batch
    ) -> Float[Tensor, ""]:
        """What `head` makes of the encodings `z` of its unit."""

    def losses(self, batch: Batch) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        activations = self.encoder.prepare(batch.inputs)
        for unit in self.partition:
            activations = activations.detach()  # the GradientBlock of the paper's section 3
            for stage in self.encoder.stages[unit.first : unit.last + 1]:
                activations = stage(activations)
            z = self.encoder.pool(activations, batch_size=len(batch.inputs))
            yield unit.name, self.loss(self.heads[unit.name], z, batch)

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
        self, inputs: Float[Tensor, "image channel height width"]
    ) -> Mapping[str, Float[Tensor, "image d"]]:
        return {module_name(m): z.mean(dim=(1, 2)) for m, z in enumerate(self._encodings(inputs))}

    def _encodings(
        self, inputs: Float[Tensor, "image channel height width"]
    ) -> Iterator[Float[Tensor, "image row column d"]]:
        """The encodings of every module in turn."""
        activations = self.encoder.prepare(inputs)
        for stage in self.encoder.stages:
            activations = stage(activations)
            yield self.encoder.pool(activations, batch_size=len(inputs))
