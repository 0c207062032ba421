"""The cells of a suite that may be judged, and what is wrong with the others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gim_bench import RESULTS_VERSION
from gim_bench.check.reference import TRACKER
from gim_bench.contract import GradientFlow
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import latest_attempts
from gim_bench.report.comparison import Difference, Rows, mixtures, undeclared


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The newest finished cells by method, seed by seed; with any problem, they decide nothing."""

    by_method: Mapping[str, Sequence[Record]]
    problems: Sequence[str]  # cells that are missing, unfinished or not alike, a line each
    mixed: Sequence[Difference]  # facts about code, data and machine that the cells do not share
    # Differences between rows that neither a method nor a row declares, a line each; empty if cells
    # are mixed, as their device is a setting, and a count may follow from the mixture.
    undeclared: Sequence[str]

    @property
    def records(self) -> list[Record]:
        return [record for records in self.by_method.values() for record in records]


def cells_of(records: Sequence[Record], *, methods: Sequence[str], rows: Rows) -> Cells:
    """The cells of these methods, with results of this version; `rows` is what rows declare."""
    current = [r for r in records if r.provenance.get("results_version") == RESULTS_VERSION]
    latest = latest_attempts([record for record in current if record.method in methods])
    done = sorted((r for r in latest if r.status is Status.DONE), key=lambda r: r.seed)
    by_method = {method: [r for r in done if r.method == method] for method in methods}
    mixed = [m for m in mixtures(done) if m.name != f"versions.{TRACKER}"]  # it moves no number
    return Cells(
        by_method={method: found for method, found in by_method.items() if found},
        problems=[
            *_problems(latest, methods),
            *(f"mixed {m.name}: {m.described()}: run all cells alike" for m in mixed),
        ],
        mixed=mixed,
        undeclared=[]
        if mixed
        else [f"undeclared difference: {line}" for line in undeclared(done, rows=rows)],
    )


def without_gradients(records: Sequence[Record]) -> list[str]:
    """The seeds of trained cells for which the reach of gradients was not measured."""
    return [
        str(record.seed)
        for record in records
        if "train/steps" in record.metrics
        and record.config["method"]["gradient_flow"] != GradientFlow.NONE
        and not record.isolation
    ]


def _problems(latest: Sequence[Record], methods: Sequence[str]) -> Iterator[str]:
    """Cells that did not finish, methods without a cell, and seeds that only other methods have."""
    for record in latest:
        cell = f"{record.method} seed {record.seed}"
        if record.status is not Status.DONE:
            yield (
                f"{cell} failed: {record.error}"
                if record.error
                else (f"{cell} did not finish: run the cell again")
            )
    found = {(record.method, record.seed) for record in latest}
    seeds = sorted({record.seed for record in latest})
    for method in methods:
        absent = [str(seed) for seed in seeds if (method, seed) not in found]
        if len(absent) == len(seeds):
            yield f"no cell of {method} with results of this version: run the suite"
        elif absent:
            yield f"no cell of {method} with seed {', '.join(absent)}, as others have: run it"
