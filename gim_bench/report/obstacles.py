"""Reasons why rows must not be compared in a sentence: machines, budgets, settings, lost runs."""

from collections.abc import Collection, Sequence

from gim_bench.records.record import Record
from gim_bench.report.columns import Row
from gim_bench.report.comparison import Difference, Kind, Rows, between_rows, mixtures
from gim_bench.report.flags import diverged
from gim_bench.report.identical import listed
from gim_bench.report.rivals import command
from gim_bench.report.suite_like import SuiteLike

# Facts of a record that decide its accuracy; all other facts of CONSTANTS decide costs alone.
OF_ACCURACY = ("protocol", "dataset", "data_sha256", "device", "gpu", "cpu", "precision")
# Kinds of settings that make two experiments of two rows, whoever declares the difference.
OF_ENCODERS = {Kind.ENCODER, Kind.AUGMENTATION, Kind.PROBE, Kind.PRECISION, Kind.DATA}
OF_TRAINING = OF_ENCODERS | {Kind.BUDGET, Kind.LABELS}
# Kinds that a sentence only names: each row may be trained at the rate that is best for it.
NAMED = {Kind.OPTIMISER, Kind.RATE, Kind.OBJECTIVE, Kind.OTHER}


def against_accuracy(
    records: Sequence[Record], *, rows: Rows, kinds: Collection[Kind] = OF_TRAINING
) -> list[str]:
    """Why the accuracies of these records are not of one experiment; empty if they are.

    `rows` holds what the suite declares for its rows. `kinds` are the kinds of settings that have
    to agree.
    """
    facts = [m for m in mixtures(records) if m.name in OF_ACCURACY]
    settings = [d for d in between_rows(records, rows=rows) if d.name != "data_sha256"]
    differing = [d for d in settings if d.kind in kinds or (d.kind in NAMED and not d.declared)]
    return [*map(_said, facts), *map(_said, differing)]


def against_costs(records: Sequence[Record], *, rows: Rows) -> list[str]:
    """Why time, energy and memory of these records do not compare; empty if they do."""
    others = [m for m in mixtures(records) if m.name not in OF_ACCURACY]
    return [*against_accuracy(records, rows=rows), *map(_said, others)]


def lost_runs(*rows: Row, suite: SuiteLike) -> str:
    """Why the means of these rows do not stand for all of their runs; empty if they do."""
    if failed := failed_runs(*rows, suite=suite):
        return failed
    if lost := [f"{row.method} with seed {s}" for row in rows for s in diverged(row.records)]:
        return f"{listed(lost)} diverged: lower the learning rate"
    return ""


def failed_runs(*rows: Row, suite: SuiteLike) -> str:
    """Which runs of these rows failed; empty if none did."""
    if failed := [f"{row.method} with seed {seed}" for row in rows for seed in row.failed]:
        return (
            f"{listed(failed)} failed and {'is' if len(failed) == 1 else 'are'} in no mean, for "
            f"the reason below. Run {command(suite, *(row.method for row in rows))}"
        )
    return ""


def named(records: Sequence[Record], *, rows: Rows) -> list[str]:
    """Kinds of settings in which records of one experiment differ all the same."""
    found = between_rows(records, rows=rows)
    return list(dict.fromkeys(str(d.kind) for d in found if d.kind in NAMED))


def _said(difference: Difference) -> str:
    return f"{difference.name} differs ({difference.described()})"
