"""Differences on the same seeds: every method against a reference method."""

from collections.abc import Sequence
from typing import NamedTuple

from gim_bench.records.statistics import PairedDifference, paired_difference, values_by_seed
from gim_bench.report.columns import NONE, Row, heading_of, show, signed, style_of
from gim_bench.report.document import Block, Bullets, Column, Section, Table

REFERENCE = "gim"
HEADINGS = ("method", "metric", "difference", "95% CI", "seeds")
WORDS = {"method", "metric"}
ONE_SEED = "one seed"


class Pair(NamedTuple):
    """A method against the reference in one metric; None if the two share no seed."""

    method: str
    metric: str
    difference: PairedDifference | None


def differences_on_the_same_seeds(rows: Sequence[Row], names: Sequence[str]) -> Section:
    """Mean difference, 95 % interval and seeds of each metric: every method less the reference."""
    if not rows or not names:
        return Section(title="Differences on the same seeds", blocks=[])
    reference = next((row for row in rows if row.method == REFERENCE), rows[0])
    pairs = []
    for name in names:
        theirs = values_by_seed(reference.records, name)
        for row in rows:
            if row is not reference and name in row.summaries and name in reference.summaries:
                difference = paired_difference(values_by_seed(row.records, name), theirs)
                pairs.append(Pair(row.method, name, difference))
    columns = [Column(heading=heading, numeric=heading not in WORDS) for heading in HEADINGS]
    table = Table(columns=columns, rows=[_cells(pair) for pair in pairs])
    return Section(
        title=f"Differences on the same seeds: each method less {reference.method}, in points of %",
        blocks=[table, *_notes(pairs)] if pairs else [],
    )


def _cells(pair: Pair) -> list[str]:
    named, found, style = heading_of(pair.metric), pair.difference, style_of(pair.metric)
    if found is None:
        return [pair.method, named, NONE, NONE, "0"]
    interval = ONE_SEED if found.ci95 is None else f"± {show(found.ci95, None, style)}"
    return [pair.method, named, signed(found.mean, style), interval, str(found.n)]


def _notes(pairs: Sequence[Pair]) -> list[Block]:
    """How to read the intervals, if there are any, and the seeds that were left out."""
    found = [(pair.method, pair.difference) for pair in pairs if pair.difference is not None]
    notes: list[Block] = []
    if any(difference.ci95 is not None for _, difference in found):
        notes.append(
            "Methods of one seed and encoder start from the same weights and, on the same split, "
            "see the same batches, so differences are taken seed by seed; 95% CI is the half width "
            "of the interval of their mean, by Student's t, for one comparison at a time."
        )
    left_out = {
        f"{method}: left out, as only one of the two has them: seeds "
        f"{', '.join(map(str, difference.left_out))}": None
        for method, difference in found
        if difference.left_out
    }
    return [*notes, Bullets([*left_out])] if left_out else notes
