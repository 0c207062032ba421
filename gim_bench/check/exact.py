"""Bit-for-bit comparison: on the machine of the reference, a seed repeats its numbers exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gim_bench.check.outcome import Outcome

ADVICE = (
    "numbers changed on the machine of the reference: correct the code, or, if the change is "
    "intended, raise RESULTS_VERSION and write a new reference with --update --reason"
)


class Change(NamedTuple):
    """A seed whose value is no longer the reference's."""

    seed: int
    before: float
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """A metric of one method in the seeds that reference and check have in common."""

    method: str
    metric: str
    unit: str  # empty for a loss without a unit
    seeds: Sequence[int]  # at least one
    changes: Sequence[Change]

    @property
    def outcome(self) -> Outcome:
        """A change is worse in either direction: the code no longer does what it did."""
        return Outcome.WORSE if self.changes else Outcome.PASSES


def repeat(
    before: Mapping[int, float],
    now: Mapping[int, float],
    *,
    method: str,
    metric: str,
    unit: str,
) -> Repeat | None:
    """The comparison of the common seeds of {seed: value}; None without a common seed.

    A value that is not a number differs from every other value.
    """
    seeds = sorted(before.keys() & now.keys())
    changes = [Change(s, before[s], now[s]) for s in seeds if before[s] != now[s]]
    if not seeds:
        return None
    return Repeat(method=method, metric=metric, unit=unit, seeds=seeds, changes=changes)
