"""Methods × protocols: accuracies of the same encoders under several protocols, and their order."""

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from types import MappingProxyType

from gim_bench.records.intervals import Estimate, corrected, difference_of, marks_of
from gim_bench.records.metrics import target_of
from gim_bench.records.protocols import ProtocolResult, ReadAsSuite, ResultsOf, config_under
from gim_bench.records.record import Record
from gim_bench.records.statistics import Summary, summarise_metrics
from gim_bench.report.columns import (
    NONE,
    SAW_VALIDATION,
    Filled,
    Row,
    mean_over,
    method_column,
    metric_column,
    sample_of,
    saw_validation,
    seeds_column,
    style_of,
    table_of,
)
from gim_bench.report.document import Block, Bullets, Column, Section
from gim_bench.report.flags import unconverged_probes
from gim_bench.report.suite_like import SuiteLike
from gim_bench.settings.shipped import shipped_protocols

Differences = Mapping[tuple[str, str, str], Estimate]  # by the two methods and the protocol
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
                config = config_under(record, result)
                records.append(replace(record, metrics=result.metrics, config=config))
                if predictions is not None:
                    marks[record.seed] = marks_of(predictions)
        summaries = summarise_metrics(records)
        found[name] = Row(row.method, records, summaries, marks=marks, failed=row.failed)
    return found


def left_out(
    records: Sequence[Record], results: ReadAsSuite, *, suite: SuiteLike
) -> dict[str, str]:
    """A line for each protocol with results that are left out, by name of the protocol."""
    known = {*shipped_protocols(), *suite.protocols}
    lines = {}
    for name, seeds in results.left_out(records).items():
        line = f"left out: {len(seeds)} result(s) of `{name}`"
        if name in known:
            again = f"probe {suite.options} --protocol {shlex.quote(name)} --seeds {max(seeds) + 1}"
            lines[name] = (
                f"{line}, read with other settings than the suite's: `python -m gim_bench {again}` "
                f"reads these cells again."
            )
        else:
            lines[name] = f"{line}, a protocol that the suite does not have."
    return lines


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
    without: Mapping[str, str] = MappingProxyType({}),
) -> Section:
    """A table for each accuracy, and how the order of the methods changes.

    `names` are the protocols that are shown; without names, all that have results. `without` are
    lines on results that are left out, by name of the protocol.
    """
    under = {row.method: rows_under(row, results) for row in rows}
    there = list(dict.fromkeys(name for of_row in under.values() for name in of_row))
    shown = [name for name in names or there if name in there]
    blocks: list[Block] = []
    for metric in metrics if shown else ():
        blocks += [f"{metric}:"] if len(metrics) > 1 else []
        columns = [metric_column(rows, metric, title=OWN)]
        columns += [_column(rows, under, name, metric=metric) for name in shown]
        blocks.append(table_of([method_column(rows), seeds_column(rows), *columns]))
        blocks.append(Bullets(list(_order(rows, under, shown, metric=metric))))
    missing = [line for name, line in without.items() if not names or name in names]
    if notes := [*missing, *(_notes(rows, shown, results=results) if blocks else [])]:
        blocks.append(Bullets(notes))
    return Section(
        title="Protocols: % of all test examples, the same encoders read in several ways",
        blocks=blocks,
    )


def _column(
    rows: Sequence[Row], under: Mapping[str, Mapping[str, Row]], name: str, *, metric: str
) -> Filled:
    """Mean and deviation over seeds under a protocol; "(n=…)" where some seeds were not read."""
    cells = []
    for row in rows:
        read = under[row.method].get(name)
        cells.append(
            mean_over(
                read.summaries.get(metric) if read else None,
                style_of(metric),
                seeds=len(row.records),
                absent=DOES_NOT_APPLY if read else NONE,
            )
        )
    return Filled(Column(heading=name), cells)


def _order(
    rows: Sequence[Row],
    under: Mapping[str, Mapping[str, Row]],
    names: Sequence[str],
    *,
    metric: str,
) -> Iterator[str]:
    """A sentence for each protocol, and those on the changes of order."""
    differences = differences_under(rows, under, names, metric=metric)
    passed = passes(differences)
    for name in names:
        pairs = [
            (own.mean, other.summaries[metric].mean)
            for row in rows
            if (other := under[row.method].get(name))
            and metric in other.summaries
            and (own := _over_seeds_of(other, row).get(metric))
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
    yield from _conclusion(rows, names, differences, passed=passed)


def _over_seeds_of(other: Row, row: Row) -> dict[str, Summary]:
    """The means of a row over the seeds of another."""
    seeds = {record.seed for record in other.records}
    return summarise_metrics([record for record in row.records if record.seed in seeds])


def _conclusion(
    rows: Sequence[Row],
    names: Sequence[str],
    differences: Differences,
    *,
    passed: Sequence[Passed],
) -> Iterator[str]:
    """How many pairs change places, and the protocols and methods without a test of that."""
    tested = {
        name
        for (first, second, name), found in differences.items()
        if name != OWN
        and found.seeds
        and (own := differences.get((first, second, OWN)))
        and own.seeds
    }
    untested = [f"`{name}`" for name in names if name not in tested]
    alone = [row.method for row in rows if len(row.records) < 2]
    if untested:
        yield (
            f"No change of order is tested under {', '.join(untested)}: a test needs two seeds of "
            f"two methods, there and under `{OWN}`."
        )
    if alone and tested:
        yield f"Methods of one seed take no part in changes of order: {', '.join(alone)}."
    if passed:
        yield f"{len(passed)} time(s) two methods change places with intervals that exclude 0."
    elif tested:
        yield "No two methods change places with intervals that exclude 0 both times."


def differences_under(
    rows: Sequence[Row],
    under: Mapping[str, Mapping[str, Row]],
    names: Sequence[str],
    *,
    metric: str,
) -> Differences:
    """The difference of every two methods on the same test examples, under each protocol."""
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
    return differences


def passes(differences: Differences) -> list[Passed]:
    """Pairs whose order is reversed, where both intervals exclude 0.

    The intervals are corrected by Holm for all pairs of methods under all protocols, the cell's own
    among them.
    """
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
        *(
            f"{row.method}: {SAW_VALIDATION} hyperparameters that suit those examples."
            for row in rows
            if saw_validation(row)
            and any(result.curves for result in found if result.method == row.method)
        ),
        *_unconverged(found),
    ]


def _unconverged(results: Sequence[ProtocolResult]) -> list[str]:
    """A line for each protocol and method with probes that ran out of iterations."""
    probes: Counter[tuple[str, str]] = Counter()
    for result in results:
        probes[result.protocol, result.method] += sum(unconverged_probes(result.metrics).values())
    return [
        f"`{protocol}`: {number} linear probe(s) of {method} ran out of iterations."
        for (protocol, method), number in probes.items()
        if number
    ]
