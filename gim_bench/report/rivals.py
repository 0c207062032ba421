"""The rows that answer the reader's questions: a local method, its end-to-end twin, the untrained.

The subject is the row that the table of differences takes as its reference: `gim`, or else the
first row of isolated modules.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from gim_bench import registry
from gim_bench.cells.defaults import encoder_settings
from gim_bench.contract import GradientFlow, Traits
from gim_bench.errors import ConfigError
from gim_bench.report.columns import Row, is_untrained, trait_of
from gim_bench.report.identical import listed
from gim_bench.report.pairs import reference_of
from gim_bench.report.suite_like import SuiteLike

SEEDS = 3  # that a command proposes where one seed has no interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Rivals:
    """The subject and the rows that it stands against, all of them with finished cells.

    Rows with the subject's encoder come first, and then those that the suite lists first.
    """

    subject: Row
    end_to_end: Sequence[Row]  # with the subject's objective and split
    untrained: Row | None

    @property
    def twin(self) -> Row | None:
        """The end-to-end row that the subject is compared with."""
        return next(iter(self.end_to_end), None)


def rivals_of(done: Sequence[Row]) -> Rivals | None:
    """The rivals among rows with finished cells; None where no row trains isolated modules."""
    subject = reference_of(done)
    if trait_of(subject, "gradient_flow") != GradientFlow.ISOLATED:
        return None
    shared = {name: trait_of(subject, name) for name in ("objective", "trains_on")}
    end_to_end = {"gradient_flow": GradientFlow.END_TO_END, **shared}
    encoder = encoder_settings(subject.records[0].config)
    nearest = sorted(done, key=lambda r: encoder_settings(r.records[0].config) != encoder)
    return Rivals(
        subject=subject,
        end_to_end=[r for r in nearest if all(trait_of(r, n) == v for n, v in end_to_end.items())],
        untrained=next(filter(is_untrained, nearest), None),
    )


def command(suite: SuiteLike, *methods: str, more: str = "") -> str:
    """The command that runs these rows of the suite, between backticks."""
    rows = "".join(f" --method {shlex.quote(method)}" for method in methods)
    return f"`python -m gim_bench run {suite.options}{rows}{more}`"


def without_interval(seeds: Mapping[str, int], *, suite: SuiteLike) -> str:
    """Which of the methods have a number for one seed alone, and the command that adds seeds.

    `seeds` counts the seeds with a number, by method.
    """
    single = [method for method, count in seeds.items() if count < 2]
    more = command(suite, *single, more=f" --seeds {SEEDS}")
    none = "has no interval" if len(single) == 1 else "have no intervals"
    return f"{listed(single)} with one seed {none}. Run {more}"


def without_twin(subject: Row, suite: SuiteLike) -> str:
    """What is missing where no finished row trains the subject's objective end to end."""

    def fits(row: str, traits: Traits) -> bool:
        flow = suite.method.get(row, {}).get("gradient_flow", traits.gradient_flow)
        objective = traits.objective.name if traits.objective else None
        return flow == GradientFlow.END_TO_END and objective == trait_of(subject, "objective")

    return _without(_first(suite, fits), "trains its objective end to end", suite)


def without_untrained(suite: SuiteLike) -> str:
    """What is missing where no finished row is an untrained encoder."""
    row = _first(suite, lambda _, traits: traits.trains_on is None and not traits.ablation)
    return _without(row, "is an untrained encoder", suite)


def _without(row: str | None, kind: str, suite: SuiteLike) -> str:
    if row is None:
        return f"no row of the suite {kind}. Add one to the suite's file"
    return f"{row}, which {kind}, has no finished cell. Run {command(suite, row)}"


def _first(suite: SuiteLike, fits: Callable[[str, Traits], bool]) -> str | None:
    """The suite's first row that fits; rows of methods that are not installed are passed over."""
    for row in suite.methods:
        with suppress(ConfigError):
            like = str(suite.method.get(row, {}).get("like", row))
            if fits(row, registry.method(like).traits):
                return row
    return None
