"""The trainer: it decides when a learner's losses go backward."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Learner, eval_mode
from gim_bench.errors import ConfigError, unknown_name
from gim_bench.hardware import devices
from gim_bench.settings.optimisers import AdamSettings, OptimiserSettings
from gim_bench.settings.schema import Precision, Schedule
from gim_bench.training.optimisers import make_optimiser, parameter_groups, set_rate


class Trainer:
    """Goes backward from a learner's losses, with an optimiser for each of its units."""

    def __init__(
        self,
        learner: Learner,
        *,
        learning_rate: float,
        schedule: Schedule,
        precision: Precision,
        device: torch.device,
        optimiser: OptimiserSettings = AdamSettings(),  # noqa: B008 - frozen
        only: str | None = None,
        frozen: str | None = None,
    ) -> None:
        """With `only`, that unit alone is trained; with `frozen`, those above that unit.

        Raises: ConfigError where there is none such.
        """
        units = learner.units()
        for wanted, where in ((only, "the setting `only` of the method"), (frozen, "--from")):
            if wanted is not None and wanted not in units:
                raise ConfigError(unknown_name("unit", wanted, known=units, where=where))
        self.learner = learner
        self.one_by_one = schedule is Schedule.SEQUENTIAL or only is not None or frozen is not None
        self.schedule = schedule
        self.precision = precision
        self.device = device
        self.learning_rate = learning_rate
        self.optimisers = {
            unit: make_optimiser(
                parameter_groups(learner, parameters, settings=optimiser),
                optimiser,
                learning_rate=learning_rate,
            )
            for unit, parameters in _above(frozen, units).items()
            if only in (None, unit)
        }
        if units and not self.optimisers:
            raise ConfigError(f"--from: with {frozen} frozen, no module is left to train: add one")

    def stages(self) -> list[str | None]:
        """What is trained in turn: one unit after the other, or (None) all of them together."""
        return list(self.optimisers) if self.one_by_one else [None]

    def below(self, unit: str | None) -> str | None:
        """The unit whose outputs that one is given; None for the lowest, and for all together."""
        names = [None, *self.learner.units()]
        return None if unit is None else names[names.index(unit) - 1]

    def outputs(self, batch: Batch, *, unit: str) -> Batch:
        """What that unit hands to the next, in the number format that training computes it in."""
        with devices.autocast(self.device, self.precision):
            return self.learner.outputs(batch, unit=unit)

    def weights_up_to(self, unit: str) -> list[Tensor]:
        """Parameters of that unit and of all below it, and the running statistics beside them."""
        units = self.learner.units()
        names = list(units)[: list(units).index(unit) + 1]
        parameters = [parameter for name in names for parameter in units[name]]
        known = {id(parameter) for parameter in parameters}
        modules = getattr(self.learner.encoder, "stages", ())
        below = [m for m in modules if any(id(p) in known for p in m.parameters())]
        return [*parameters, *(buffer for module in below for buffer in module.buffers())]

    @property
    def parameters(self) -> int:
        """How many are trained."""
        groups = (group for each in self.optimisers.values() for group in each.param_groups)
        return sum(p.numel() for group in groups for p in group["params"])

    def losses(
        self, batch: Batch, *, only: str | None = None
    ) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        """The learner's losses; autocast covers each forward, never what happens in between."""
        wanted = {} if only is None else {"only": only}
        losses = iter(self.learner.losses(batch, **wanted))
        while True:
            with devices.autocast(self.device, self.precision):
                unit_and_loss = next(losses, None)
            if unit_and_loss is None:
                return
            yield unit_and_loss

    def step(self, batch: Batch, *, only: str | None = None) -> dict[str, Float[Tensor, ""]]:
        """One optimiser step of every unit, or of one alone; their losses, detached.

        `joint` and `interleaved` compute the same gradients. `interleaved` goes backward and steps
        as soon as a unit's loss is there, so that the unit's activations and gradients are freed
        before the next unit's exist; `joint` holds all of them, as the paper's measurement did.
        """
        losses = {}
        for unit, loss in self.losses(batch, only=only):
            losses[unit] = loss
            if self.schedule is not Schedule.JOINT:
                loss.backward()
                self._update(unit)
                losses[unit] = loss.detach()
        if self.schedule is Schedule.JOINT:
            torch.stack(list(losses.values())).sum().backward()
            for unit in losses:
                self._update(unit)
        return {unit: loss.detach() for unit, loss in losses.items()}

    def evaluate(self, batches: Iterable[Batch], *, only: str | None = None) -> dict[str, float]:
        """Mean losses over batches that are not learnt from; none where there are no batches."""
        totals: dict[str, Tensor] = {}
        count = 0
        with torch.no_grad(), eval_mode(self.learner):
            for batch in batches:
                count += 1
                for unit, loss in self.losses(batch, only=only):
                    totals[unit] = totals[unit] + loss if unit in totals else loss
        return {unit: float(total) / count for unit, total in totals.items()}

    def set_rate(self, factor: float) -> None:
        """The next steps are taken at `factor` times the learning rate."""
        for optimiser in self.optimisers.values():
            set_rate(optimiser, factor * self.learning_rate)

    def freeze(self, unit: str) -> None:
        """Nothing more is learnt by this unit: what its optimiser remembers is let go."""
        self.optimisers[unit].state.clear()

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on, beside the batches and the schedule of the rate."""
        return {
            "learner": self.learner.state_dict(),
            "optimisers": {unit: each.state_dict() for unit, each in self.optimisers.items()},
            "generators": [generator.get_state() for generator in self._generators()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes back to where `state` was taken."""
        self.learner.load_state_dict(state["learner"])
        for unit, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][unit])
        for generator, drawn in zip(self._generators(), state["generators"], strict=True):
            generator.set_state(drawn)

    def _generators(self) -> list[torch.Generator]:
        """Where losses draw from: the learner's own generators, and PyTorch's, for dropout."""
        on_gpu = self.device.type == "cuda"
        own = torch.cuda.default_generators[self.device.index or 0] if on_gpu else None
        torchs = [torch.default_generator, *([] if own is None else [own])]
        return [*self.learner.generators(), *torchs]

    def _update(self, unit: str) -> None:
        self.optimisers[unit].step()
        self.optimisers[unit].zero_grad(set_to_none=True)


def _above(
    frozen: str | None, units: Mapping[str, Sequence[nn.Parameter]]
) -> dict[str, Sequence[nn.Parameter]]:
    """The units above `frozen`; all where nothing is."""
    names = list(units)
    first = 0 if frozen is None else names.index(frozen) + 1
    return {name: units[name] for name in names[first:]}
