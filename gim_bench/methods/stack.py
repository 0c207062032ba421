"""The learner that most methods are: an objective times a gradient flow.

A stack's modules are grouped into *units*, each trained by one loss at its top. Isolated flow makes
every module a unit of its own, or as many units as a row asks for; end-to-end flow makes one unit
of them all. Gradients are stopped at the entrance of every unit, and nowhere else in this project.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import (
    Batch,
    Encoder,
    GradientFlow,
    Ingredients,
    Learner,
    Modality,
    eval_mode,
)
from gim_bench.encoders.bottleneck import BottleneckModule
from gim_bench.encoders.tiles import EncodesInPieces, Span, TiledEncoder, composed, part, spans
from gim_bench.hardware import process_group
from gim_bench.methods.compiling import as_written, begin_pass, compile_layers
from gim_bench.methods.recomputing import recomputed
from gim_bench.settings.augmentations import FRAME_SAMPLES
from gim_bench.settings.protocols import Reading
from gim_bench.settings.schema import Recompute

# The number of pieces in which a batch goes through modules whose activations are not kept.
PIECES = 8
# Steps of 10 ms that are read together of a recording with more of them.
LONG_STEPS = 6000
# By the dimensions of the inputs: time steps, or rows and columns, of a unit's outputs that are
# computed together, where activations are recomputed tile by tile.
TILES = {1: 1024, 2: 32}

# Is given the batch for the units above, and copies what it keeps.
HandOn = Callable[[Batch], None]


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


def partition(modules: int, flow: GradientFlow, *, units: int | None = None) -> list[Unit]:
    """The units of a stack of `modules` under that gradient flow.

    Isolated flow has as many as `units` says: None makes every module a unit. Their sizes differ by
    one at most, and the topmost unit is never the smaller.
    """
    match flow:
        case GradientFlow.ISOLATED:
            count = units or modules
            starts = [index * modules // count for index in range(count + 1)]
            return [Unit(first, above - 1) for first, above in pairwise(starts)]
        case GradientFlow.END_TO_END:
            return [Unit(0, modules - 1)]
        case GradientFlow.NONE:
            return []


@dataclass(frozen=True, slots=True)
class Encodings:
    """Encodings of a unit for one view: targets z and contexts c.

    Both are the same grid but for an autoregressor, whose contexts predict the encodings of the
    module below it.
    """

    z: Float[Tensor, "example row column d"]
    c: Float[Tensor, "example row column e"]
    module: int  # that c comes from, counted from 0
    # The grids of the unit's other modules, lowest first, for heads that ask for them; rows,
    # columns and channels are each module's own.
    lower: tuple[Float[Tensor, "example _ _ _"], ...] = ()

    def gathered(self) -> "Encodings":
        """Those of all examples of a batch that processes share."""
        if process_group.size() == 1:
            return self
        c = process_group.gathered(self.c)
        z = c if self.z is self.c else process_group.gathered(self.z)
        lower = tuple(process_group.gathered(grid) for grid in self.lower)
        return replace(self, z=z, c=c, lower=lower)


class StackLearner(Learner):
    """An encoder whose units are each trained by a head of their own; subclasses give the head."""

    encoder: Encoder
    # Whether heads look at the grids of the lower modules of their own unit.
    sees_lower_grids: ClassVar[bool] = False
    # Whether the loss of processes that share a batch is computed from each one's own examples, and
    # exchanges what it needs of the others. Otherwise each computes the loss of the whole batch.
    shares_losses: ClassVar[bool] = False
    left_out: ClassVar[int] = 0  # modules of the suite's encoder that `adapted` leaves out

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__()
        self.encoder = self.adapted(ingredients.encoder)
        self.target = ingredients.target
        self.recompute = ingredients.recompute
        self.compiled, self.cuda_graphs = ingredients.compiled, ingredients.cuda_graphs
        self.partition = partition(
            len(self.encoder.stages), ingredients.gradient_flow, units=ingredients.units
        )
        self.streams = {unit.name: ingredients.stream(unit.name) for unit in self.partition}
        self.heads = nn.ModuleDict(
            {unit.name: self.head(unit.last, ingredients) for unit in self.partition}
        )
        if ingredients.compiled:
            layers = list(self._layers(0, len(self.encoder.stages) - 1))
            compile_layers(layers, cuda_graphs=ingredients.cuda_graphs)

    @classmethod
    def adapted(cls, encoder: Encoder) -> Encoder:
        """The suite's encoder as this method uses it; an ablation changes it, and declares that."""
        return encoder

    @abstractmethod
    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        """A new head for a unit whose topmost module is `module`, counted from 0."""

    @abstractmethod
    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        """The loss of `head` on the unit's encodings of every view, view 1 first."""

    def handed_on(self, activations: Tensor) -> Tensor:
        """What a trained unit gives its head and the unit above, of the activations at its top.

        Hook: noise, for example. Frozen, evaluated and probed modules do without.
        """
        return activations

    def read(
        self, z: Float[Tensor, "example row column d"], *, module: int
    ) -> Float[Tensor, "example step e"]:
        """What a probe reads of a module's grid.

        Hook: the output of a head, for example. It is called in eval mode, without autograd.
        """
        return self.encoder.steps(z, module=module)

    def head_output(
        self, z: Float[Tensor, "example row column d"], *, module: int
    ) -> Float[Tensor, "example step e"] | None:
        """What the head of a module makes of its grid before the loss; None without such a thing.

        Hook: as `read`. The parts of heads that it uses are `read_heads`.
        """
        return None

    def target_dim(self, module: int) -> int:
        """Channels of the encodings z that `module` predicts."""
        return self.encoder.dims[module - 1 if self._predicts_below(module) else module]

    def losses(
        self, batch: Batch, *, only: str | None = None
    ) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        begin_pass(cuda_graphs=self.cuda_graphs)
        if only is None:
            views = [self.encoder.prepare(view) for view in batch.views]
            yield from self._losses(batch, views, self.partition)
            return
        for unit in self.partition:
            if unit.name == only:
                yield from self._losses(batch, self._frozen(batch, modules=unit.first), [unit])

    def relayed(
        self, batch: Batch, *, units: Collection[str], hand_on: HandOn | None
    ) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        """(unit, loss) of consecutive `units`, on what the unit below them handed on.

        `hand_on` is given the batch for the unit above. The losses are those of `losses`, whose
        units may so be trained in several processes.
        """
        begin_pass(cuda_graphs=self.cuda_graphs)
        own = [unit for unit in self.partition if unit.name in units]
        views = self._frozen(batch, modules=own[0].first)
        yield from self._losses(batch, views, own, hand_on=hand_on)

    def _losses(
        self,
        batch: Batch,
        views: list[Tensor],
        units: Sequence[Unit],
        *,
        hand_on: HandOn | None = None,
    ) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        """Losses of consecutive units, the lowest of which is given the activations `views`."""
        examples = len(batch.inputs)
        encode = {
            Recompute.PIECES: self._in_pieces,
            Recompute.TILES: self._in_tiles,
        }.get(self.recompute, self._through)
        whole = batch if self.shares_losses else _with_all_labels(batch)
        for unit in units:
            # The activations at the top are for the unit above, if that is trained, too.
            keep = unit is not units[-1] or hand_on is not None
            encodings = []
            for _ in batch.views:
                found, top = encode(unit, views, examples, keep=keep)
                encodings.append(found)
                if keep:
                    views.append(top)
                del found, top
            if unit is units[-1] and hand_on is not None:
                hand_on(self._above(unit.name, [view.detach() for view in views], batch))
                views.clear()
            if not self.shares_losses:
                encodings = [each.gathered() for each in encodings]
            yield unit.name, self.loss(self.heads[unit.name], encodings, whole)

    def keep_units(self, units: Collection[str]) -> None:
        """Drop the weights of all other units, which another process trains."""
        for unit in self.partition:
            if unit.name not in units:
                self.heads[unit.name] = nn.Identity()
                for module in range(unit.first, unit.last + 1):
                    self.encoder.stages[module] = nn.Identity()

    def generators(self) -> Mapping[str, torch.Generator]:
        return self.streams

    def units(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {
            unit.name: [
                *self.encoder.stages[unit.first : unit.last + 1].parameters(),
                *self.heads[unit.name].parameters(),
            ]
            for unit in self.partition
        }

    def uninformed_losses(self) -> Mapping[str, float]:
        """The `uninformed_loss` of every head that has one."""
        known = {name: getattr(head, "uninformed_loss", None) for name, head in self.heads.items()}
        return {name: loss for name, loss in known.items() if loss is not None}

    def outputs(self, batch: Batch, *, unit: str) -> Batch:
        begin_pass(cuda_graphs=self.cuda_graphs)
        views = self._frozen(batch, modules=self._modules_up_to(unit))
        return self._above(unit, views, batch)

    def _above(self, unit: str, views: Sequence[Tensor], batch: Batch) -> Batch:
        """The batch for the units above `unit`, whose activations at the top are `views`."""
        first, *further = (view.unflatten(0, (len(batch.inputs), -1)) for view in views)
        return replace(batch, inputs=first, further=tuple(further), encoded_by=unit)

    def features(
        self, inputs: Float[Tensor, "example *shape"]
    ) -> Mapping[str, Float[Tensor, "example step d"]]:
        return self.readings(inputs, kinds=[Reading.FEATURES])[Reading.FEATURES]

    def features_in_pieces(
        self, inputs: Float[Tensor, "example *shape"]
    ) -> Iterator[Mapping[str, Float[Tensor, "example step d"]]]:
        """The features of consecutive steps: of one long recording piece by piece, else of all.

        All pieces together are `features`; the grid of a long recording is never held whole.
        """
        encoder = self.encoder
        is_long = len(inputs) == 1 and inputs.shape[1] > LONG_STEPS * FRAME_SAMPLES
        if not (isinstance(encoder, EncodesInPieces) and is_long):
            yield self.features(inputs)
            return
        for new, grids in encoder.grids_in_pieces(inputs, steps=LONG_STEPS):
            with torch.no_grad(), eval_mode(self), as_written(compiled=self.compiled):
                found = {
                    module_name(m): self.read(z, module=m)[:, new] for m, z in enumerate(grids)
                }
            yield found

    @torch.no_grad()
    def readings(
        self, inputs: Float[Tensor, "example *shape"], *, kinds: Collection[Reading]
    ) -> Mapping[Reading, Mapping[str, Float[Tensor, "example step _"]]]:
        found: dict[Reading, dict[str, Tensor]] = {kind: {} for kind in kinds}
        with eval_mode(self), as_written(compiled=self.compiled):
            for m, z in enumerate(self.encoder.grids(inputs)):
                for kind, of_kind in found.items():
                    if (values := self._reading(kind, z, module=m)) is not None:
                        of_kind[module_name(m)] = values
        return found

    def _reading(
        self, kind: Reading, z: Float[Tensor, "example row column d"], *, module: int
    ) -> Float[Tensor, "example step _"] | None:
        match kind:
            case Reading.FEATURES:
                return self.read(z, module=module)
            case Reading.GRID:
                return z.flatten(1)[:, None] if self.encoder.modality is Modality.IMAGE else None
            case Reading.HEAD:
                return self.head_output(z, module=module)

    def _layers(self, first: int, last: int) -> Iterator[nn.Module]:
        """Layers of the modules from `first` to `last`, in forward order."""
        for stage in self.encoder.stages[first : last + 1]:
            yield from stage if isinstance(stage, nn.Sequential) else [stage]

    def _operations(self, first: int, last: int) -> Iterator[nn.Module]:
        """What runs of these modules: layers, or a whole module where it is one operation."""
        for m, stage in enumerate(self.encoder.stages[first : last + 1], start=first):
            is_one = isinstance(stage, BottleneckModule) and stage.is_one_operation
            by_layer = self.recompute is Recompute.LAYERS or not is_one
            yield from self._layers(m, m) if by_layer else [stage]

    def _through(
        self, unit: Unit, views: list[Tensor], examples: int, *, keep: bool
    ) -> tuple[Encodings, Tensor]:
        """Encodings and top activations of a unit for the first view, which leaves the list."""
        # The GradientBlock of the paper's section 3.
        return self._upwards(unit, unit.first, [views.pop(0).detach()], examples)

    def _upwards(
        self, unit: Unit, first: int, given: list[Tensor], examples: int
    ) -> tuple[Encodings, Tensor]:
        """Encodings and top activations of a unit from those `given` to its module `first`."""
        activations = given.pop()
        lower = []
        below = None
        for module in range(first, unit.last + 1):
            if self.sees_lower_grids and module > unit.first:
                lower.append(self.encoder.pool(activations, batch_size=examples))
            # Rebound at every layer: what it was given is held no longer than it needs.
            below = activations if self._predicts_below(module) else None
            for layer in self._operations(module, module):
                if self.recompute is Recompute.LAYERS:
                    activations = recomputed(layer, activations, layers=[layer])
                else:
                    activations = layer(activations)
        activations = self.handed_on(activations)
        c = self.encoder.pool(activations, batch_size=examples)
        z = c if below is None else self.encoder.pool(below, batch_size=examples)
        return Encodings(z, c, module=unit.last, lower=tuple(lower)), activations

    def _in_pieces(
        self, unit: Unit, views: list[Tensor], examples: int, *, keep: bool
    ) -> tuple[Encodings, Tensor]:
        """As `_through`, of which nothing else is kept for the way back.

        The activations at the top are whole only with `keep`, and empty otherwise.
        """
        activations = views.pop(0)
        of_an_example = len(activations) // examples

        def through(piece: Tensor) -> tuple[Tensor, ...]:
            found, top = self._through(unit, [piece], len(piece) // of_an_example, keep=keep)
            return found.z, found.c, *found.lower, top.detach() if keep else top.new_empty(0)

        layers = list(self._layers(unit.first, unit.last))
        found = [
            recomputed(through, piece, layers=layers) for piece in _pieces(activations, examples)
        ]
        z, c, *lower, top = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Encodings(z, c, module=unit.last, lower=tuple(lower)), top

    def _in_tiles(
        self, unit: Unit, views: list[Tensor], examples: int, *, keep: bool
    ) -> tuple[Encodings, Tensor]:
        """As `_through`, of which only the input and the top are held whole.

        A tile's activations are computed again on the way back: the gradients are the whole's. An
        autoregressor on top reads the whole.
        """
        activations = views.pop(0).detach()
        assert isinstance(self.encoder, TiledEncoder)
        reaches = self.encoder.reaches[unit.first : unit.last + 1]
        above = unit.first + len(reaches)
        layers = list(self._layers(unit.first, above - 1))
        reach, run = composed(reaches), nn.Sequential(*layers)
        extent = activations.shape[2:]
        size = TILES[len(extent)]

        def tiled(tile: tuple[Span, ...]) -> Tensor:
            """The outputs at these places, and at all places along the dimensions that follow."""
            done = len(tile)
            if done < len(extent):
                every = spans(reach.outputs(extent[done]), size=size)
                return torch.cat([tiled((*tile, span)) for span in every], dim=2 + done)
            seen = [reach.tile(*pair) for pair in zip(tile, extent, strict=True)]
            inputs = part(activations, [slice(*each.inputs) for each in seen])
            outputs = recomputed(run, inputs, layers=layers)
            return part(outputs, [each.kept for each in seen])

        return self._upwards(unit, above, [tiled(()) if reaches else activations], examples)

    @torch.no_grad()
    def _frozen(self, batch: Batch, *, modules: int) -> list[Tensor]:
        """Activations above the lowest `modules`, view by view; only results are held whole."""
        there = 0 if batch.encoded_by is None else self._modules_up_to(batch.encoded_by)
        frozen = nn.Sequential(*self._operations(there, modules - 1))
        found = []
        with eval_mode(frozen):
            for view in batch.views:
                activations = (
                    self.encoder.prepare(view)
                    if batch.encoded_by is None
                    else _channels_last(view.flatten(0, 1))
                )
                if there < modules:
                    pieces = _pieces(activations, len(view))
                    activations = torch.cat([frozen(piece) for piece in pieces])
                found.append(activations)
        return found

    def _modules_up_to(self, name: str) -> int:
        """How many modules there are up to the top of that unit."""
        return next(unit.last for unit in self.partition if unit.name == name) + 1

    def _predicts_below(self, module: int) -> bool:
        return self.encoder.autoregressive and module == len(self.encoder.stages) - 1


def _pieces(activations: Tensor, examples: int) -> Sequence[Tensor]:
    """At most `PIECES` parts of the activations of a batch, each of whole examples."""
    return activations.split(-(-examples // PIECES) * (len(activations) // examples))


def _with_all_labels(batch: Batch) -> Batch:
    """The batch with the labels of all processes that share it."""
    labels = {name: process_group.gathered(labels) for name, labels in batch.labels.items()}
    return replace(batch, labels=labels)


def _channels_last(activations: Tensor) -> Tensor:
    """Images' activations as the convolutions above laid them out before they were kept."""
    images = activations.dim() == 4
    return activations.contiguous(memory_format=torch.channels_last) if images else activations
