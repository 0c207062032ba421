"""What one more step shows of training: where each loss's gradients reach, and how much work it is.

Letters: m = a loss, by the name of its unit; n = a module; θ_n = the parameters of the module in
the encoder and, for losses of other units, those of the head on the module. The loss's own head
does not count: a loss that reaches its head alone trains nothing that a probe reads.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Encoder, GradientFlow, Learner
from gim_bench.hardware.devices import arithmetic
from gim_bench.methods.stack import module_name, partition
from gim_bench.records.metrics import target_of
from gim_bench.records.record import Record
from gim_bench.settings.schema import Schedule
from gim_bench.training.trainer import Trainer

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

Isolation = Mapping[str, Mapping[str, float | None]]  # None: not finite, as JSON gives it back


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Findings of the audit; empty if nothing was trained."""

    isolation: Isolation = field(default_factory=dict)  # {m: {n: ‖∂loss_m/∂θ_n‖₂, …}, …}
    flops: int = 0  # of all its steps, two for each multiply-add; 0 if not known


def audit(trainer: Trainer, batch: Batch, *, steps: int, kept_batches: int = 0) -> Audit:
    """What one more step of every stage on `batch`, which changes nothing, says about training.

    It is the step that every stage took `steps` times, on the weights that it led to: at the start,
    a head of zeros would hide what is below it. A step that processes shared counts as many times,
    and `batch` is the part of one of them. Its number format is training's and what was
    recomputed is recomputed, so it needs the memory that training had, and autocast cannot lose a
    gradient unseen. Compiled layers alone run as they are written, where they can be counted.

    `kept_batches` says of how many batches the outputs of frozen units were kept: they are computed
    so many times, not at every step. Neither the optimiser nor what is held out is counted.
    """
    isolation: dict[str, dict[str, float]] = {}
    flops = 0
    with untouched(trainer.learner, device=trainer.device), arithmetic(trainer.precision):
        for stage in trainer.stages():
            below = trainer.below(stage)
            given = batch
            if kept_batches and below is not None:
                with flop_counter() as counter:
                    given = trainer.outputs(batch, unit=below)
                flops += kept_batches * counter.get_total_flops()
            with flop_counter() as counter:
                isolation |= gradient_norms(trainer, given, only=stage)
            flops += steps * counter.get_total_flops()
    return Audit(isolation=isolation, flops=flops)


# -- where gradients reach -------------------------------------------------------------------------


def gradient_norms(
    trainer: Trainer, batch: Batch, *, only: str | None
) -> dict[str, dict[str, float]]:
    """{m: {n: ‖∂loss_m/∂θ_n‖₂, …}, …} of all losses, or of one unit's alone.

    Exactly 0 where no path leads from the loss to the module. As in training, every weight of the
    loss's unit has its gradient computed, the own head's among them.
    """
    units = trainer.learner.units()
    thetas = {unit: seen_from(unit, trainer.learner) for unit in units}
    losses = trainer.losses(batch, only=only)
    if trainer.schedule is not Schedule.JOINT:
        return {unit: _norms_of(loss, thetas[unit], units[unit]) for unit, loss in losses}
    # As in training: jointly, every graph is there until the last loss frees them all.
    together = list(losses)
    last, _ = together[-1]
    return {
        unit: _norms_of(loss, thetas[unit], units[unit], retain_graph=unit != last)
        for unit, loss in together
    }


def _norms_of(
    loss: Float[Tensor, ""],
    modules: Mapping[str, Sequence[nn.Parameter]],
    own: Sequence[nn.Parameter],
    *,
    retain_graph: bool = False,
) -> dict[str, float]:
    """{n: ‖∂loss/∂θ_n‖₂, …}; what is frozen has no gradient. `own` weights are the unit's."""
    trained = {n: [p for p in theta if p.requires_grad] for n, theta in modules.items()}
    asked = [p for theta in trained.values() for p in theta]
    seen = {id(p) for p in asked}
    head = [p for p in own if p.requires_grad and id(p) not in seen]
    gradients = iter(
        torch.autograd.grad(loss, [*asked, *head], retain_graph=retain_graph, allow_unused=True)
    )
    return {n: _norm(list(islice(gradients, len(theta)))) for n, theta in trained.items()}


def _norm(gradients: Sequence[Tensor | None]) -> float:
    """In fp64, where the squares of small gradients do not vanish; 0 of gradients that are None."""
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradients if g is not None]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


def seen_from(unit: str, learner: Learner) -> Mapping[str, Sequence[nn.Parameter]]:
    """θ_n by module, as the loss of `unit` sees them; by unit, where units are no modules.

    The unit's own head does not count, unless its module has no weights in the encoder. A module
    without parameters is left out.
    """
    units, encoder = learner.units(), learner.encoder
    stages = list(encoder.stages) if isinstance(encoder, Encoder) else []
    weights = {module_name(m): list(stage.parameters()) for m, stage in enumerate(stages)}
    if not units.keys() <= weights.keys():
        return units
    in_stages = {id(p) for theta in weights.values() for p in theta}
    found = {}
    for name, theta in weights.items():
        head = [p for p in units.get(name, ()) if id(p) not in in_stages]
        found[name] = theta if name == unit and theta else [*theta, *head]
    return {name: theta for name, theta in found.items() if theta}


def leaks(record: Record) -> list[str]:
    """How the gradients of a finished cell contradict what its method declares, a line for each."""
    method = record.config["method"]
    flow = GradientFlow(method["gradient_flow"])
    return contradictions(record.isolation, flow=flow, units=method.get("units"))


def contradictions(
    isolation: Isolation, *, flow: GradientFlow, units: int | None = None
) -> list[str]:
    """Where a loss reaches a module that it must not reach, or none that it must, a line for each.

    With isolated flow a loss reaches the modules of its own unit and no other, end to end it
    reaches all. A unit is a module unless `units` counts them. A loss that reaches its head alone
    trains no weight of the encoder.
    """
    lines = []
    # A module without weights has no column; as the topmost one it gives its unit's loss its name.
    named = {target_of(name)[1] for loss, row in isolation.items() for name in (loss, *row)}
    for loss, row in isolation.items():
        _, own = target_of(loss)
        modules = {own} if units is None else _modules_of(own, named=named, units=units)
        for module, norm in row.items():
            declared = flow is GradientFlow.END_TO_END or module in modules
            reached = norm != 0
            if reached != declared:
                found = (
                    f"reaches {module} (norm {norm})"
                    if reached
                    else f"trains no weight of {module} in the encoder"
                )
                lines.append(f"the loss of {loss} {found}, but the flow declared is {flow}")
    return lines


def _modules_of(unit: str, *, named: Collection[str], units: int) -> set[str]:
    """Names of the modules of an isolated unit, of which there are `units`.

    Among the modules that are `named` is the topmost one.
    """
    modules = max(int(name.rpartition("_")[2]) for name in named)
    parts = partition(modules, GradientFlow.ISOLATED, units=units)
    return {
        module_name(m)
        for part in parts
        if part.name == unit
        for m in range(part.first, part.last + 1)
    }


# -- work ------------------------------------------------------------------------------------------


def flop_counter() -> "FlopCounterMode":
    """Counts what runs within it: matrix products and convolutions, two for each multiply-add.

    What is computed again counts again. PyTorch knows all of these but cuDNN's recurrent layers;
    on CPUs a GRU is made of products that it knows.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton, which reports don't need

    aten: Any = torch.ops.aten
    recurrent = {
        aten._cudnn_rnn: _rnn_flops,  # noqa: SLF001 - PyTorch's only name for it
        aten._cudnn_rnn_backward: _rnn_backward_flops,  # noqa: SLF001
    }
    return FlopCounterMode(display=False, custom_mapping=recurrent)


def _rnn_flops(
    inputs: Sequence[int], weights: Sequence[Sequence[int]], *_: object, **__: object
) -> int:
    """Operations of a recurrent layer's forward pass: each time step meets each matrix once."""
    return 2 * prod(inputs[:-1]) * sum(prod(shape) for shape in weights if len(shape) == 2)


def _rnn_backward_flops(
    inputs: Sequence[int], weights: Sequence[Sequence[int]], *_: object, **__: object
) -> int:
    """Operations of its backward pass: two forwards, as cuDNN always computes input gradients."""
    return 2 * _rnn_flops(inputs, weights)


# -- leaving no trace ------------------------------------------------------------------------------


@contextmanager
def untouched(learner: Learner, *, device: torch.device) -> Iterator[None]:
    """When the block is left, buffers, generators and compiled code are as they were before it."""
    buffers = [(buffer, buffer.clone()) for buffer in learner.buffers()]
    states = [(generator, generator.get_state()) for generator in generators_of(learner)]
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        # PyTorch gives up a compiled layer for good where a counter meets it.
        torch.compiler.set_stance("force_eager"),
    ):
        try:
            yield
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)
            for generator, state in states:
                generator.set_state(state)


def generators_of(learner: Learner) -> list[torch.Generator]:
    """All that the learner or any part of it draws from."""
    attributes = (value for module in learner.modules() for value in vars(module).values())
    found = [value for value in attributes if isinstance(value, torch.Generator)]
    return list(dict.fromkeys([*learner.generators().values(), *found]))
