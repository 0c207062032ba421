"""The trainer decides when the losses of a learner go backward."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Learner, eval_mode
from gim_bench.errors import ConfigError, unknown_name
from gim_bench.hardware import devices
from gim_bench.methods.stack import HandOn, StackLearner
from gim_bench.settings.base import Precision
from gim_bench.settings.optimisers import AdamSettings, OptimiserSettings
from gim_bench.settings.schema import Schedule
from gim_bench.training.optimisers import make_optimiser, parameter_groups, set_rate


class Trainer:
    """Trains the units of a learner, each with an optimiser of its own."""

    trains_here: ClassVar[bool] = True  # else other processes take the steps

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
        share: Sequence[str] | None = None,
    ) -> None:
        """`only` names the one unit to train; `frozen` the topmost unit that is not trained.

        `share` names the consecutive units that this process trains, where others have the rest.
        Raises: ConfigError where the learner has no such unit.
        """
        units = learner.units()
        for wanted, where in ((only, "the setting `only` of the method"), (frozen, "--from")):
            if wanted is not None and wanted not in units:
                raise ConfigError(unknown_name("unit", wanted, known=units, where=where))
        self.learner = learner
        self.share = share
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
            if only in (None, unit) and (share is None or unit in share)
        }
        if units and not self.optimisers:
            raise ConfigError(f"--from: with {frozen} frozen, no module is left to train: add one")

    @property
    def threads(self) -> int:
        """Threads that take a step on a CPU."""
        return torch.get_num_threads()

    def stages(self) -> list[str | None]:
        """Stages of training: each unit in turn, or [None], all units together."""
        return list(self.optimisers) if self.one_by_one else [None]

    def below(self, unit: str | None) -> str | None:
        """The unit whose outputs `unit` is given; None for the lowest, and for all together."""
        names = [None, *self.learner.units()]
        return None if unit is None else names[names.index(unit) - 1]

    def outputs(self, batch: Batch, *, unit: str) -> Batch:
        """The batch as `unit` hands it to the next unit, in the precision of training."""
        with devices.autocast(self.device, self.precision):
            return self.learner.outputs(batch, unit=unit)

    def weights_up_to(self, unit: str) -> list[Tensor]:
        """Parameters and running statistics of `unit` and of all units below."""
        units = self.learner.units()
        names = list(units)[: list(units).index(unit) + 1]
        parameters = [parameter for name in names for parameter in units[name]]
        known = {id(parameter) for parameter in parameters}
        modules = getattr(self.learner.encoder, "stages", ())
        below = [m for m in modules if any(id(p) in known for p in m.parameters())]
        return [*parameters, *(buffer for module in below for buffer in module.buffers())]

    @property
    def parameters(self) -> int:
        """Number of parameters that are trained."""
        groups = (group for each in self.optimisers.values() for group in each.param_groups)
        return sum(p.numel() for group in groups for p in group["params"])

    def losses(
        self, batch: Batch, *, only: str | None = None, hand_on: HandOn | None = None
    ) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        """Losses of the learner. Autocast covers the forward passes, and nothing in between.

        Of a share, `hand_on` is given the batch for the units above.
        """
        if self.share is None:
            losses = iter(self.learner.losses(batch, **({} if only is None else {"only": only})))
        else:
            assert isinstance(self.learner, StackLearner)
            losses = iter(self.learner.relayed(batch, units=self.share, hand_on=hand_on))
        while True:
            with devices.autocast(self.device, self.precision):
                unit_and_loss = next(losses, None)
            if unit_and_loss is None:
                return
            yield unit_and_loss

    def step(
        self, batch: Batch, *, only: str | None = None, hand_on: HandOn | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Take an optimiser step of every unit, or of `only` one; return the detached losses.

        `joint` and `interleaved` compute the same gradients. `interleaved` goes backward and steps
        as soon as the loss of a unit is there: activations and gradients of the unit are freed
        before the next unit runs. `joint` holds the activations of all units, as in the paper's
        measurement of memory.
        """
        losses = {}
        with devices.arithmetic(self.precision):  # of the way back, too
            for unit, loss in self.losses(batch, only=only, hand_on=hand_on):
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

    def evaluate(
        self, batches: Iterable[Batch], *, only: str | None = None, hand_on: HandOn | None = None
    ) -> dict[str, float]:
        """Mean losses over held-out batches, in eval mode; an empty table without batches."""
        totals: dict[str, Tensor] = {}
        count = 0
        with torch.no_grad(), eval_mode(self.learner):
            for batch in batches:
                count += 1
                for unit, loss in self.losses(batch, only=only, hand_on=hand_on):
                    totals[unit] = totals[unit] + loss if unit in totals else loss
        return {unit: float(total) / count for unit, total in totals.items()}

    def set_rate(self, factor: float) -> None:
        """Set the rate of the next steps to `factor` times the learning rate."""
        for optimiser in self.optimisers.values():
            set_rate(optimiser, factor * self.learning_rate)

    def freeze(self, unit: str) -> None:
        """Drop the optimizer state of a unit that is trained to the end."""
        self.optimisers[unit].state.clear()

    def state_if(self, *, wanted: bool) -> dict[str, Any] | None:
        """The state after the last step; None unless it is wanted."""
        return self.state() if wanted else None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A context in which steps are taken. Hook: for processes that take them."""
        yield

    def state(self) -> dict[str, Any]:
        """The state that the next steps depend on, without batches and the schedule of the rate."""
        return {
            "learner": self.learner.state_dict(),
            "optimisers": {unit: each.state_dict() for unit, each in self.optimisers.items()},
            "generators": {name: each.get_state() for name, each in self._generators().items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state`."""
        self.learner.load_state_dict(state["learner"])
        for unit, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][unit])
        for name, generator in self._generators().items():
            generator.set_state(state["generators"][name])

    def _generators(self) -> dict[str, torch.Generator]:
        """Generators that losses draw from: the learner's own, and PyTorch's for dropout."""
        found = {**self.learner.generators(), "cpu": torch.default_generator}
        if self.device.type == "cuda":
            found["cuda"] = torch.cuda.default_generators[self.device.index or 0]
        return found

    def _update(self, unit: str) -> None:
        self.optimisers[unit].step()
        self.optimisers[unit].zero_grad(set_to_none=True)


def _above(
    frozen: str | None, units: Mapping[str, Sequence[nn.Parameter]]
) -> dict[str, Sequence[nn.Parameter]]:
    """Units above `frozen`; all units if nothing is frozen."""
    names = list(units)
    first = 0 if frozen is None else names.index(frozen) + 1
    return {name: units[name] for name in names[first:]}
