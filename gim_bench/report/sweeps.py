"""Sweeps of the linear probe's learning rate, as a table and as data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gim_bench.records.record import Record
from gim_bench.report.columns import NONE
from gim_bench.report.document import Column, Section, Table

WORDS = ("method", "probe")
HEADINGS = (
    "method", "seed", "probe", "trials",
    "best rate", "validation %", "test %",
    "paper's rate", "its validation %", "its test %", "test reads",
    "decades within 1 point",
)  # fmt: skip


class Swept(NamedTuple):
    """The sweep of one probe of a cell."""

    record: Record
    name: str
    found: Mapping[str, Any]


def sweeps_of(records: Sequence[Record]) -> Iterator[Swept]:
    """The sweeps of all records, cell by cell and probe by probe."""
    for record in records:
        for name, found in record.sweeps.items():
            yield Swept(record, name, found)


def sweep_section(records: Sequence[Record]) -> Section:
    """The table of all sweeps; empty without sweeps."""
    table = sweep_table(records)
    return Section(
        title="Linear probe: the best learning rate of a sweep beside the paper's",
        blocks=[table, SWEEP_NOTE] if table.rows else [],
    )


SWEEP_NOTE = (
    "Rates were chosen by validation accuracy, and the probe refitted on all labels before the "
    "test set was read: in one pass for the best rate and for the paper's, once for each finished "
    "number of trials. Test reads above 1 mean that trials were added after the test set had been "
    "seen. The last column is the width of the unbroken range of rates, in powers of ten, that "
    "cost at most one point of the best validation accuracy."
)


def sweep_table(records: Sequence[Record]) -> Table:
    """A row for each swept probe."""
    return Table(
        columns=[Column(heading=heading, numeric=heading not in WORDS) for heading in HEADINGS],
        rows=[_row(swept) for swept in sweeps_of(records)],
    )


def _row(swept: Swept) -> list[str]:
    record, name, found = swept
    width = found["decades_within_one_point"]
    return [
        record.method,
        str(record.seed),
        name,
        str(found["trials"]),
        *_choice(found["best"]),
        *_choice(found["paper"]),
        str(found.get("test_reads", 1)),  # absent from records before the reads were counted
        NONE if width is None else f"{width:.2f}",
    ]


def _choice(choice: Mapping[str, float]) -> list[str]:
    """The rate, with a weight decay above 0, and the percentages on validation and test."""
    rate = f"{choice['learning_rate']:.2g}"
    if choice["weight_decay"]:
        rate += f", decay {choice['weight_decay']:.2g}"
    return [rate, f"{choice['validation_accuracy']:.1f}", f"{choice['test_accuracy']:.1f}"]


def sweeps_as_data(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The output of `sweep --json`: an object for each swept probe."""
    return [
        {
            "suite": swept.record.suite,
            "method": swept.record.method,
            "seed": swept.record.seed,
            "key": swept.record.key,
            "probe": swept.name,
            **swept.found,
        }
        for swept in sweeps_of(records)
    ]
