"""Sweeps of the linear probe's hyperparameter, as tables and as data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gim_bench.records.record import Record
from gim_bench.report.columns import NONE, SAW_VALIDATION
from gim_bench.report.document import Block, Bullets, Column, Section, Table

WORDS = ("method", "probe")
# Headings of the hyperparameters that the test set judged: the best, and the one beside it.
JUDGED = {
    "learning_rate": ("best rate", "Löwe et al.'s rate"),
    "penalty": ("best penalty", "best of the suite's penalties"),
}


class Swept(NamedTuple):
    """The sweep of one probe of a cell."""

    record: Record
    name: str
    found: Mapping[str, Any]

    @property
    def hyperparameter(self) -> str:
        """The name of the hyperparameter that the trials vary."""
        return "penalty" if "penalty" in self.found["best"] else "learning_rate"

    @property
    def beside(self) -> Mapping[str, float]:
        """The trial that the best one is compared with: Löwe et al.'s, or the suite's best."""
        found: Mapping[str, float] = self.found.get("paper") or self.found["suite"]
        return found


def sweeps_of(records: Sequence[Record]) -> Iterator[Swept]:
    """The sweeps of all records, cell by cell and probe by probe."""
    for record in records:
        for name, found in record.sweeps.items():
            yield Swept(record, name, found)


def sweep_section(records: Sequence[Record]) -> Section:
    """A table of the sweeps of each kind of probe; empty without sweeps."""
    tables = sweep_tables(records)
    adam_alone = all(swept.hyperparameter == "learning_rate" for swept in sweeps_of(records))
    title = (
        "the best learning rate of a sweep beside Löwe et al.'s"
        if adam_alone
        else "the best hyperparameter of a sweep"
    )
    notes = [
        f"{method}: {SAW_VALIDATION} rates and penalties that suit those examples: compare its "
        f"accuracies on the test set."
        for method in dict.fromkeys(
            swept.record.method for swept in sweeps_of(records) if swept.record.knows_labels
        )
    ]
    notes += [note for swept in sweeps_of(records) for note in _unconverged(swept)]
    blocks: list[Block] = [*tables, SWEEP_NOTE, *([Bullets(notes)] if notes else [])]
    return Section(title=f"Linear probe: {title}", blocks=blocks if tables else [])


def _unconverged(swept: Swept) -> Iterator[str]:
    """A line for each probe that was tested and ran out of iterations."""
    best, beside = JUDGED[swept.hyperparameter]
    record = swept.record
    for role in swept.found.get("unconverged", ()):
        yield (
            f"{record.method} seed {record.seed}, {swept.name}: the probe of the "
            f"{best if role == 'best' else beside} did not converge; its test accuracy may be far "
            f"too low."
        )


SWEEP_NOTE = (
    "Trials were chosen by validation accuracy, and the probe refitted on all labels before the "
    "test set was read: in one pass for the best trial and for the one beside it, once for each "
    "finished number of trials. Test reads above 1 mean that trials were added after the test set "
    "had been seen. The last column is the width of the unbroken range of rates or penalties, in "
    "powers of ten, that cost at most one point of the best validation accuracy."
)


def sweep_tables(records: Sequence[Record]) -> list[Table]:
    """A table for each kind of probe that was swept, with a row for each swept probe."""
    return [
        Table(
            columns=[Column(heading=h, numeric=h not in WORDS) for h in _headings(*judged)],
            rows=[_row(swept) for swept in found],
        )
        for hyperparameter, judged in JUDGED.items()
        if (found := [s for s in sweeps_of(records) if s.hyperparameter == hyperparameter])
    ]


def _headings(best: str, beside: str) -> tuple[str, ...]:
    return (
        "method", "seed", "probe", "trials",
        best, "validation %", "test %",
        beside, "its validation %", "its test %", "test reads",
        "decades within 1 point",
    )  # fmt: skip


def _row(swept: Swept) -> list[str]:
    record, name, found = swept
    width = found["decades_within_one_point"]
    return [
        record.method,
        str(record.seed),
        name,
        str(found["trials"]),
        *_choice(found["best"], swept.hyperparameter),
        *_choice(swept.beside, swept.hyperparameter),
        str(found.get("test_reads", 1)),  # absent from records before the reads were counted
        NONE if width is None else f"{width:.2f}",
    ]


def _choice(choice: Mapping[str, float], hyperparameter: str) -> list[str]:
    """The rate or penalty, a weight decay above 0, and the percentages on validation and test."""
    rate = f"{choice[hyperparameter]:.2g}"
    if choice.get("weight_decay"):
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
