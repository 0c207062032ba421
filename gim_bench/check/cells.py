"""Which cells of a suite may be judged, and what is wrong with the others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gim_bench.contract import GradientFlow
from gim_bench.errors import ConfigError
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import finished_at
from gim_bench.report.comparison import Difference, count_differences, differences, mixtures
from gim_bench.settings.schema import CellConfig
from gim_bench.settings.suites import parse


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """The newest finished cells by method, seed by seed, and why they are not all that they should.

    With any problem, what the cells say of the code is not known.
    """

    by_method: Mapping[str, Sequence[Record]]
    problems: Sequence[str]  # the mixtures among them
    mixed: Sequence[Difference]  # facts about code, data and machine that are not the same for all

    @property
    def records(self) -> list[Record]:
        return [record for records in self.by_method.values() for record in records]

    @property
    def undeclared(self) -> list[str]:
        """Settings and counts in which methods differ without declaring it, in a line each.

        None of mixed cells: their device is a setting, and what was counted may follow from it.
        """
        if self.mixed:
            return []
        found = [*differences(self.records), *count_differences(self.records)]
        return [
            f"undeclared difference: {difference.name} is {difference.described()}"
            for difference in found
            if not difference.declared
        ]


def cells_of(records: Sequence[Record], *, methods: Sequence[str]) -> Cells:
    """The cells of these methods."""
    latest = _latest([r for r in records if r.method in methods and _is_current(r)])
    done = sorted((r for r in latest if r.status is Status.DONE), key=lambda r: r.seed)
    by_method = {m: [r for r in done if r.method == m] for m in methods}
    mixed = mixtures(done)
    return Cells(
        by_method={method: found for method, found in by_method.items() if found},
        problems=[
            *_unfinished(latest),
            *_missing(latest, methods),
            *(f"mixed {m.name}: {m.described()}: run all cells alike" for m in mixed),
        ],
        mixed=mixed,
    )


def settings_of(record: Record) -> dict[str, Any]:
    """The cell's resolved configuration without the device, which decides no setting."""
    return {name: value for name, value in record.config.items() if name != "device"}


def without_gradients(records: Sequence[Record]) -> list[str]:
    """The seeds of trained cells of which nobody measured how far their gradients reach."""
    return [str(r.seed) for r in records if _trains(r) and not r.isolation]


def _trains(record: Record) -> bool:
    flow = record.config["method"]["gradient_flow"]
    return "train/steps" in record.metrics and flow != GradientFlow.NONE


def _is_current(record: Record) -> bool:
    """Whether today's code would give the cell the same key: its results are of this version."""
    try:
        config = parse(CellConfig, record.config, origin="record")
    except ConfigError:
        return False
    sha256 = str(record.provenance.get("data_sha256"))
    return config.key(data_sha256=sha256, seed=record.seed) == record.key


def _latest(records: Sequence[Record]) -> list[Record]:
    """The latest attempt at each method and seed."""
    latest: dict[tuple[str, int], Record] = {}
    for record in sorted(records, key=_attempted_at):
        latest[record.method, record.seed] = record
    return list(latest.values())


def _attempted_at(record: Record) -> str:
    return finished_at(record) or str(record.provenance.get("started_at") or "")


def _unfinished(latest: Sequence[Record]) -> list[str]:
    return [
        f"{r.method} seed {r.seed} {'failed' if r.error else 'did not finish'}"
        f"{f': {r.error}' if r.error else ': run it again'}"
        for r in latest
        if r.status is not Status.DONE
    ]


def _missing(latest: Sequence[Record], methods: Sequence[str]) -> list[str]:
    """Methods without a cell, and seeds that only other methods have."""
    found = {(record.method, record.seed) for record in latest}
    seeds = sorted({record.seed for record in latest})
    lines = []
    for method in methods:
        absent = [str(seed) for seed in seeds if (method, seed) not in found]
        if len(absent) == len(seeds):
            lines.append(f"no cell of {method} with results of this version: run the suite")
        elif absent:
            lines.append(f"no cell of {method} with seed {', '.join(absent)}, as others have: run")
    return lines
