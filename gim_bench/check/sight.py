"""What a reference can see: would an untrained encoder in place of a trained method be noticed?

A trained method is set against the untrained row with the same encoder. The effect of training is
the distance of their mean accuracies. A check sees the effect if it tolerates less than half of it,
in one accuracy at least of every encoder that the method trains.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gim_bench.cells.defaults import encoder_settings, settings_by_name
from gim_bench.check.reference import MethodReference
from gim_bench.check.tolerance import (
    ACCURACY,
    FALSE_ALARMS,
    LOSS,
    LOSS_OF_OTHER_UNIT,
    POWER,
    Reach,
    enough,
    kind_of,
    reach_of,
    seeds_to_see,
)
from gim_bench.contract import GradientFlow
from gim_bench.records.metrics import target_of
from gim_bench.records.statistics import summarise
from gim_bench.settings.schema import Suite

UNTRAINED = "random_init"
Methods = Mapping[str, MethodReference]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One accuracy of a trained method beside the untrained row's."""

    method: str
    metric: str
    untrained: str  # the untrained row
    effect: float  # points above the untrained row's mean; negative below
    spread: float  # points: the larger standard deviation of the two rows
    seeds: int  # of the reference
    fixed: int | None  # seeds of a check; None: as many as the reference has
    level: float  # of each comparison of a check

    @property
    def now(self) -> int:
        """The seeds of a check."""
        return self.seeds if self.fixed is None else self.fixed

    @property
    def reach(self) -> Reach:
        """The tolerance of a check, in points; without bound where seeds are too few to compare."""
        if not enough(self.seeds, self.now):
            return Reach(tolerance=math.inf, detectable=math.inf)
        return reach_of(
            self.spread, self.seeds, self.now, mean=0.0, kind=ACCURACY, level=self.level
        )

    @property
    def sees(self) -> bool:
        return self.reach.tolerance < self.effect / 2

    def seeds_needed(self, *, now: int | None) -> int | None:
        """The seeds of a reference against which half of the effect is noticed with 80 % power.

        `now` and the answer None are as in `seeds_to_see`.
        """
        return seeds_to_see(
            self.effect / 2, spread=self.spread, now=now, kind=ACCURACY, level=self.level
        )

    def described(self) -> str:
        """One line: the effect, the tolerance, and the seeds that would notice half the effect."""
        return f"{self.method} {self.metric}: {self._found()}: {self.advice()}"

    def _found(self) -> str:
        side = "above" if self.effect > 0 else "below"
        tolerance = self.reach.tolerance
        does = "is not possible" if math.isinf(tolerance) else f"tolerates {tolerance:.1f}"
        return (
            f"{abs(self.effect):.1f} points {side} {self.untrained}'s, where a check of {self.now} "
            f"seed(s) against {self.seeds} {does}"
        )

    def advice(self) -> str:
        """The seeds that notice half of the effect, or that none do."""
        half = f"half of the effect is noticed with a power of {POWER:.0%}"
        both = self.seeds_needed(now=None)
        if self.fixed is not None and (n := self.seeds_needed(now=self.fixed)) is not None:
            return f"{half} by a reference of {n} seeds (--seeds {n})"
        if both is not None:
            how = f"--seeds {both}" if self.fixed is None else f"seeds = {both} in the suite"
            return f"{half} by {both} seeds on both sides ({how})"
        return "no number of seeds suffices: train longer, choose another task, or leave it out"


def sights(methods: Methods, *, now: int | None, level: float | None = None) -> list[Sight]:
    """The accuracy by which each trained encoder is best told from the untrained row.

    `now` is the number of seeds of a check; None: as many as the reference has. `level` is that of
    each comparison; None: of a check that compares all metrics of the reference by intervals. A
    method without an untrained row of its encoder, or without an accuracy, is left out.
    """
    found = []
    if level is None:
        level = FALSE_ALARMS / max(1, sum(len(each.metrics) for each in methods.values()))
    for method in trained(methods):
        candidates = list(_candidates(method, methods, now=now, level=level))
        for target in _targets(methods[method]):
            about = [s for s in candidates if target in ("", target_of(s.metric)[0])]
            if about:
                found.append(max(about, key=lambda s: s.effect / s.reach.tolerance))
    return found


def seeds_of_a_check(suite: Suite) -> int | None:
    """The suite's own number of seeds; None, as many as the reference has, for a suite of one.

    A suite has one seed by default so that a first run is short. One seed has no spread.
    """
    return suite.seeds if suite.seeds > 1 else None


def unseen(methods: Methods) -> list[str]:
    """The trained methods of which nothing can be said, a line with the reason."""
    told = {sight.method for sight in sights(methods, now=None)}
    blank = ", ".join(method for method in trained(methods) if method not in told)
    line = (
        f"not known whether an untrained encoder would pass as {blank}: the suite has no accuracy "
        f"of the same encoder untrained ({UNTRAINED})"
    )
    return [line] if blank else []


def trained(methods: Methods) -> list[str]:
    """The methods that train an encoder by gradients."""
    tables = {name: settings_by_name(kept.config) for name, kept in methods.items()}
    return [
        name
        for name, settings in tables.items()
        if settings.get("method.gradient_flow", GradientFlow.NONE) != GradientFlow.NONE
    ]


def untrained_twin(method: str, methods: Methods) -> str | None:
    """The row whose encoder is the method's before training; None without such a row."""
    encoder = encoder_settings(methods[method].config)
    for name, kept in methods.items():
        like = settings_by_name(kept.config).get("method.like", name)
        if like == UNTRAINED and encoder_settings(kept.config) == encoder:
            return name
    return None


def _candidates(method: str, methods: Methods, *, now: int | None, level: float) -> Iterator[Sight]:
    """All accuracies that the method and its untrained row have in common."""
    twin = untrained_twin(method, methods)
    if twin is None:
        return
    kept, theirs = methods[method], methods[twin].metrics
    for name, values in kept.metrics.items():
        if kind_of(name) is ACCURACY and values and theirs.get(name):
            ours, other = (summarise(list(v.values())) for v in (values, theirs[name]))
            yield Sight(
                method=method,
                metric=name,
                untrained=twin,
                effect=ours.mean - other.mean,
                spread=max(ours.std or 0.0, other.std or 0.0),
                seeds=len(kept.seeds),
                fixed=now,
                level=level,
            )


def _targets(kept: MethodReference) -> list[str]:
    """The targets of the encoders that a method trains; "" for one encoder of all targets.

    The names of its losses tell: a supervised method on speech trains an encoder for each target.
    """
    losses = [name for name in kept.metrics if kind_of(name) in (LOSS, LOSS_OF_OTHER_UNIT)]
    return list(dict.fromkeys(target_of(name)[0] for name in losses)) or [""]
