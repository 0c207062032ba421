"""Methods × protocols: accuracies of the same encoders under several protocols, and their order."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from gim_bench.records.intervals import Estimate, corrected, difference_of, marks_of
from gim_bench.records.metrics import target_of
from gim_bench.records.protocols import READ, READ_UNDER, Kept, ProtocolResult
from gim_bench.records.record import Record
from gim_bench.records.statistics import summarise_metrics
from gim_bench.report.columns import (
    NONE,
    Filled,
    Row,
    method_column,
    sample_of,
    seeds_column,
    show,
    style_of,
    table_of,
)
from gim_bench.report.document import Block, Bullets, Column, Section

ResultsOf = Callable[[Record], Mapping[str, Kept]]  # by name of the protocol
OWN = "own"  # the cell's own probe
DOES_NOT_APPLY = "does not apply"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A pair of methods whose order under a protocol is the reverse of the cell's own."""

    protocol: str
    winner: str  # under the protocol
    loser: str
    own: Estimate  # winner less loser under the cell's own probe: below 0
    under: Estimate  # under the protocol: above 0


def rows_under(row: Row, results: ResultsOf) -> dict[str, Row]:
    """The row as each protocol has it, by name: its records have the metrics of the protocol."""
    found: dict[str, Row] = {}
    of_records = {record.seed: results(record) for record in row.records}
    for name in dict.fromkeys(name for of_record in of_records.values() for name in of_record):
        records, marks = [], {}
        for record in row.records:
            result, predictions = of_records[record.seed].get(name, (None, None))
            if result is not None and result.metrics:
                config = {**record.config, READ_UNDER: name, READ: result.settings}
                records.append(replace(record, metrics=result.metrics, config=config))
                if predictions is not None:
                    marks[record.seed] = marks_of(predictions)
        summaries = summarise_metrics(records)
        found[name] = Row(row.method, records, summaries, marks=marks)
    return found


def accuracies_of(rows: Sequence[Row]) -> list[str]:
    """The accuracy of every target that the rows have: "accuracy", or "speaker_accuracy"."""
    names = dict.fromkeys(name for row in rows for name in row.summaries)
    return [name for name in names if target_of(name)[1] == "accuracy"]


def protocols_section(
    rows: Sequence[Row],
    metrics: Sequence[str],
    *,
    results: ResultsOf,
    names: Sequence[str] = (),
) -> Section:
    """A table for each accuracy, and how the order of the methods changes.

    `names` are the protocols that are shown; without names, all that have results.
    """
    under = {row.method: rows_under(row, results) for row in rows}
    there = list(dict.fromkeys(name for of_row in under.values() for name in of_row))
    shown = [name for name in names or there if name in there]
    blocks: list[Block] = []
    for metric in metrics if shown else ():
        blocks += [f"{metric}:"] if len(metrics) > 1 else []
        columns = [_column(rows, metric, heading=OWN)]
        columns += [
            _column([under[row.method].get(name) for row in rows], metric, heading=name)
            for name in shown
        ]
        blocks.append(table_of([method_column(rows), seeds_column(rows), *columns]))
        blocks.append(Bullets(list(_order(rows, under, shown, metric=metric))))
    if blocks:
        blocks.append(Bullets(_notes(rows, shown, results=results)))
    return Section(
        title="Protocols: % of all test examples, the same encoders read in several ways",
        blocks=blocks,
    )


def _column(rows: Sequence[Row | None], metric: str, *, heading: str) -> Filled:
    """Mean and deviation over seeds under a protocol, with their number where it is not all."""
    style, cells = style_of(metric), []
    for row in rows:
        summary = row.summaries.get(metric) if row else None
        absent = NONE if row is None else DOES_NOT_APPLY
        cells.append(show(summary.mean, summary.std, style) if summary else absent)
    return Filled(Column(heading=heading), cells)


def _order(
    rows: Sequence[Row],
    under: Mapping[str, Mapping[str, Row]],
    names: Sequence[str],
    *,
    metric: str,
) -> Iterator[str]:
    """A sentence for each protocol, and one on the order of all of them."""
    passed = passes(rows, under, names, metric=metric)
    for name in names:
        pairs = [
            (row.summaries[metric].mean, other.summaries[metric].mean)
            for row in rows
            if (other := under[row.method].get(name))
            and metric in other.summaries
            and metric in row.summaries
        ]
        if len(pairs) < 2:
            continue
        tau = _tau(pairs)
        of_this = [each for each in passed if each.protocol == name]
        changes = "; ".join(
            f"{each.winner} passes {each.loser} ({each.own.value:+.1f} points become "
            f"{each.under.value:+.1f})"
            for each in of_this
        )
        order = "has no order" if tau is None else f"has Kendall's tau {tau:+.2f} with `{OWN}`"
        yield f"Under `{name}` the order of {len(pairs)} methods {order}" + (
            f": {changes}." if changes else "."
        )
    yield _conclusion(rows, passed)


def _conclusion(rows: Sequence[Row], passed: Sequence[Passed]) -> str:
    if any(len(row.records) < 2 for row in rows):
        return (
            "Methods of one seed have no interval over seeds: no change of order is tested there."
            if not passed
            else "Methods of one seed take no part in the changes of order above."
        )
    if not passed:
        return "No two methods change places with intervals that exclude 0 both times."
    return f"{len(passed)} time(s) two methods change places with intervals that exclude 0."


def passes(
    rows: Sequence[Row],
    under: Mapping[str, Mapping[str, Row]],
    names: Sequence[str],
    *,
    metric: str,
) -> list[Passed]:
    """Pairs whose order is reversed, where both intervals exclude 0.

    The intervals are of the same test examples. They are corrected by Holm for all pairs of
    methods under all protocols, the cell's own among them.
    """
    differences: dict[tuple[str, str, str], Estimate] = {}
    for one, other in combinations(rows, 2):
        both: dict[str, tuple[Row | None, Row | None]] = {OWN: (one, other)}
        for name in names:
            both[name] = under[one.method].get(name), under[other.method].get(name)
        for name, (ours, theirs) in both.items():
            sample, against = (
                None if row is None else sample_of(row, metric) for row in (ours, theirs)
            )
            if sample is not None and against is not None:
                differences[one.method, other.method, name] = difference_of(sample, against)
    tests = dict(zip(differences, corrected([*differences.values()]), strict=True))

    def excludes_zero(place: tuple[str, str, str]) -> bool:
        test = tests[place]
        half = differences[place].half_width(test.level) if test else None
        return half is not None and abs(differences[place].value) > half

    reversals = []
    for (first, second, name), found in differences.items():
        own = differences.get((first, second, OWN))
        if own is None or name == OWN or own.value * found.value >= 0:
            continue
        if excludes_zero((first, second, OWN)) and excludes_zero((first, second, name)):
            winner, loser = (first, second) if found.value > 0 else (second, first)
            sign = 1 if found.value > 0 else -1
            reversals.append(
                Passed(
                    protocol=name,
                    winner=winner,
                    loser=loser,
                    own=replace(own, value=sign * own.value),
                    under=replace(found, value=sign * found.value),
                )
            )
    return reversals


def _tau(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Kendall's tau-b of two orders; None where one of them is all ties."""
    from scipy.stats import kendalltau

    one, other = zip(*pairs, strict=True)
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return float(kendalltau(one, other).statistic)


def _notes(rows: Sequence[Row], names: Sequence[str], *, results: ResultsOf) -> list[str]:
    """What the columns are, and why a protocol does not apply."""
    found = [
        result
        for row in rows
        for record in row.records
        for name, (result, _) in results(record).items()
        if name in names
    ]
    reasons: dict[str, list[str]] = {}
    for result in found:
        if result.reason:
            line = f"`{result.protocol}`: {result.reason}"
            reasons.setdefault(line, []).append(result.method)
    mixed = [
        name
        for name in names
        if len({str(result.settings) for result in found if result.protocol == name}) > 1
    ]
    return [
        (
            f"`{OWN}`: the cell's own probe on the top module. The other columns are read by "
            f"`python -m gim_bench probe`; docs/protocols.md says what each reads."
        ),
        "Changes of order: intervals cover seeds and test examples, corrected by Holm.",
        *(f"{line} ({', '.join(dict.fromkeys(methods))})." for line, methods in reasons.items()),
        *(f"`{name}` has other settings in some cells than in others." for name in mixed),
        *_unconverged(found),
    ]


def _unconverged(results: Sequence[ProtocolResult]) -> list[str]:
    """A line for each protocol and method with probes that ran out of iterations."""
    probes: Counter[tuple[str, str]] = Counter()
    for result in results:
        for name, number in result.metrics.items():
            if target_of(name)[1] == "unconverged":
                probes[result.protocol, result.method] += int(number)
    return [
        f"`{protocol}`: {number} linear probe(s) of {method} ran out of iterations."
        for (protocol, method), number in probes.items()
    ]
