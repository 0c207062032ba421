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
from torch.utils.checkpoint import checkpoint

from gim_bench.contract import Batch, Encoder, GradientFlow, Ingredients, Learner
from gim_bench.settings.schema import Recompute

# In how many pieces a batch goes through modules whose activations are not kept.
PIECES = 8


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
        self.recompute = ingredients.recompute
        self.negatives = ingredients.negatives
        self.partition = partition(len(self.encoder.stages), self.traits.gradient_flow)
        self.heads = nn.ModuleDict(
            {unit.name: self.head(unit.last, ingredients) for unit in self.partition}
        )
        if ingredients.compiled:
            # Layer by layer: equal ones share the work, and schedules and recomputing see layers.
            for layer in self._layers(0, len(self.encoder.stages) - 1):
                layer.compile()

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

    def losses(
        self, batch: Batch, *, only: str | None = None
    ) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        activations = self.encoder.prepare(batch.inputs) if only is None else None
        for unit in self.partition:
            if only not in (None, unit.name):
                continue
            if activations is None:
                activations = self._frozen(batch, modules=unit.first)
            # The GradientBlock of the paper's section 3.
            activations, below = activations.detach(), None
            if self.recompute is Recompute.PIECES:
                # Kept whole only where there is a unit above that is trained, too.
                pieces = self._in_pieces(unit, activations, len(batch.inputs), keep=only is None)
                z, c, activations = pieces
            else:
                for layer in self._layers(unit.first, unit.last):
                    # Rebound at every layer: what it was given is held no longer than it needs.
                    below = activations if self._predicts_below(unit.last) else None
                    activations = self._run(layer, activations)
                c = self.encoder.pool(activations, batch_size=len(batch.inputs))
                z = c if below is None else self.encoder.pool(below, batch_size=len(batch.inputs))
            if only is not None:
                del activations, below
            yield (
                unit.name,
                self.loss(self.heads[unit.name], Encodings(z, c, module=unit.last), batch),
            )

    def generators(self) -> Sequence[torch.Generator]:
        return [self.negatives]

    def units(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {
            unit.name: [
                *self.encoder.stages[unit.first : unit.last + 1].parameters(),
                *self.heads[unit.name].parameters(),
            ]
            for unit in self.partition
        }

    def outputs(self, batch: Batch, *, unit: str) -> Float[Tensor, "example *shape"]:
        activations = self._frozen(batch, modules=self._modules_up_to(unit))
        return activations.unflatten(0, (len(batch.inputs), -1))

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

    def _layers(self, first: int, last: int) -> Iterator[nn.Module]:
        """Of the modules from `first` to `last`, in forward order."""
        for stage in self.encoder.stages[first : last + 1]:
            yield from stage if isinstance(stage, nn.Sequential) else [stage]

    def _run(self, layer: nn.Module, activations: Tensor) -> Tensor:
        if self.recompute is Recompute.LAYERS:
            return checkpoint(layer, activations, use_reentrant=False, preserve_rng_state=False)
        return layer(activations)

    def _in_pieces(
        self, unit: Unit, activations: Tensor, batch_size: int, *, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(z, c, activations) of a unit of which nothing else is kept for the way back."""

        def piece_of(given: Tensor, examples: int) -> tuple[Tensor, Tensor, Tensor]:
            below = given
            for layer in self._layers(unit.first, unit.last):
                below, given = given, layer(given)
            c = self.encoder.pool(given, batch_size=examples)
            predicts_below = self._predicts_below(unit.last)
            z = self.encoder.pool(below, batch_size=examples) if predicts_below else c
            return z, c, given.detach() if keep else given.new_empty(0)

        of_an_example = len(activations) // batch_size
        size = -(-batch_size // PIECES) * of_an_example
        found = [
            checkpoint(
                piece_of, piece, len(piece) // of_an_example,
                use_reentrant=False, preserve_rng_state=False,
            )
            for piece in activations.split(size)
        ]  # fmt: skip
        z, c, activations = (torch.cat(parts) for parts in zip(*found, strict=True))
        return z, c, activations

    @torch.no_grad()
    def _frozen(self, batch: Batch, *, modules: int) -> Tensor:
        """What the lowest `modules` make of a batch, in pieces: only the result is held whole."""
        if batch.encoded_by is None:
            there, activations = 0, self.encoder.prepare(batch.inputs)
        else:
            there = self._modules_up_to(batch.encoded_by)
            activations = _channels_last(batch.inputs.flatten(0, 1))
        if there == modules:
            return activations
        frozen = nn.Sequential(*self._layers(there, modules - 1))
        size = -(-len(activations) // PIECES)
        return torch.cat([frozen(piece) for piece in activations.split(size)])

    def _modules_up_to(self, name: str) -> int:
        """How many modules there are up to the top of that unit."""
        return next(unit.last for unit in self.partition if unit.name == name) + 1

    def _predicts_below(self, module: int) -> bool:
        return self.encoder.autoregressive and module == len(self.encoder.stages) - 1


def _channels_last(activations: Tensor) -> Tensor:
    """Images' activations as the convolutions above laid them out before they were kept."""
    images = activations.dim() == 4
    return activations.contiguous(memory_format=torch.channels_last) if images else activations
