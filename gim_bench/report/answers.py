"""The answers on top of a report: does it work, what does it cost, what does it save?

A sentence compares rows of one experiment alone, with intervals alone. Where it cannot, it says
what is missing, and the command that would fill it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gim_bench.contract import GradientFlow
from gim_bench.records.metrics import target_of
from gim_bench.records.record import Record
from gim_bench.report.columns import (
    Row,
    heading_of,
    interval_of,
    is_untrained,
    show,
    style_of,
    trait_of,
)
from gim_bench.report.costs import COSTS, SAVES, what_it_costs, what_it_saves
from gim_bench.report.document import Answer
from gim_bench.report.flags import still_learning, unconverged_probes
from gim_bench.report.identical import listed
from gim_bench.report.obstacles import (
    OF_ENCODERS,
    OF_TRAINING,
    against_accuracy,
    lost_runs,
    named,
)
from gim_bench.report.pairs import REFERENCE, Pair, compared
from gim_bench.report.rivals import (
    Rivals,
    command,
    rivals_of,
    without_interval,
    without_twin,
    without_untrained,
)
from gim_bench.report.suite_like import SuiteLike

WORKS = "Does it work?"
READING = (
    "In the answers, ± is half of a 95 % interval, and brackets after a ratio hold one; where two "
    "rows are compared, the interval is corrected by Holm. In the tables below, ± after a number "
    "is a standard deviation over seeds."
)
# By the signs of the differences from an untrained encoder and from end to end, None if unknown.
VERDICTS: Mapping[tuple[int | None, int | None], str] = {
    (1, 1): "Yes, and better than end to end",
    (1, 0): "Yes: better than an untrained encoder, not told apart from end to end",
    (1, -1): "In part: better than an untrained encoder, worse than end to end",
    (1, None): "Better than an untrained encoder; against end to end, not known",
    (None, 1): "Better than end to end; against an untrained encoder, not known",
    (None, 0): "Not told apart from end to end; against an untrained encoder, not known",
    (None, -1): "Worse than end to end; against an untrained encoder, not known",
    (None, None): "Not known",
}
BY_UNTRAINED: Mapping[int | None, str] = {
    0: "Not shown: not told apart from an untrained encoder",
    -1: "No: worse than an untrained encoder",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """The subject against a rival, or the reason why a sentence may not compare the two."""

    text: str = ""
    sign: int | None = None  # of the difference; 0: the interval holds 0; None: unknown
    why: str = ""


def answers(rows: Sequence[Row], names: Sequence[str], *, suite: SuiteLike) -> list[Answer]:
    """The answers for the accuracies `names`; none where no row trains isolated modules.

    Rows that do not fit into memory are among `rows`, too.
    """
    done = [row for row in rows if row.records]
    listed_rows = {*suite.methods, *(row.method for row in rows)}
    if REFERENCE in listed_rows and REFERENCE not in {row.method for row in done}:
        missing = f"No finished cell of {REFERENCE}. Run {command(suite, REFERENCE)}"
        questions = (WORKS, COSTS, SAVES)
        return [Answer(question=q, verdict="Not known", sentences=[missing]) for q in questions]
    rivals = rivals_of(done) if done else None
    if rivals is None:
        return []
    pairs = compared(done, names)
    works = [
        does_it_work(
            rivals,
            done,
            [pair for pair in pairs if pair.metric == name],
            name,
            suite=suite,
            of=f" ({heading_of(name)})" if len(names) > 1 else "",
        )
        for name in names
        if name in rivals.subject.summaries
    ]
    return [
        *works,
        what_it_costs(rivals, suite=suite),
        what_it_saves(rivals, rows, suite=suite),
    ]


def does_it_work(
    rivals: Rivals,
    done: Sequence[Row],
    pairs: Sequence[Pair],
    name: str,
    *,
    suite: SuiteLike,
    of: str = "",
) -> Answer:
    """The accuracy `name` against end to end and against untrained, from the table of differences.

    `pairs` are the differences of the rows `done` from the subject in this accuracy. `of` names
    the accuracy where there are several.
    """
    subject, twin, untrained = rivals.subject, rivals.twin, rivals.untrained
    if twin:
        against_twin = _against(subject, twin, pairs, suite=suite)
    else:
        against_twin = Against(why=without_twin(subject, suite))
    if untrained:
        against_untrained = _against(subject, untrained, pairs, suite=suite)
    else:
        against_untrained = Against(why=without_untrained(suite))
    parts = [each.text for each in (against_twin, against_untrained) if each.text]
    signs = (against_untrained.sign, against_twin.sign)
    return Answer(
        question=WORKS + of,
        verdict=BY_UNTRAINED.get(signs[0], "") or VERDICTS[signs],
        sentences=[
            f"{_reaches(subject, name)}{f', {listed(parts)}' if parts else ''}",
            *([f"Against end to end: {against_twin.why}"] if against_twin.why else []),
            *([f"Against untrained: {against_untrained.why}"] if against_untrained.why else []),
            *_without_a_network(subject, done, pairs, suite=suite),
            *_caveats(rivals, name, suite=suite),
        ],
    )


def _against(subject: Row, rival: Row, pairs: Sequence[Pair], *, suite: SuiteLike) -> Against:
    """The subject less a rival: an untrained encoder at its best module."""
    of_rival = [pair for pair in pairs if pair.method == rival.method]
    if why := _why_not(subject, rival, of_rival, suite=suite):
        return Against(why=why)
    pair = of_rival[-1]
    gap, half = -pair.difference.value, _half_width(pair)
    sign = 0 if abs(gap) <= half else (1 if gap > 0 else -1)
    text = (
        f"{abs(gap):.1f} ± {half:.1f} points {'above' if gap >= 0 else 'below'} {rival.method} "
        f"({'untrained' if is_untrained(rival) else 'end to end'}"
        f"{', at its best module' if pair.at_best else ''}"
        f"{'; no proven difference' if sign == 0 else ''})"
    )
    return Against(text=text, sign=sign)


def _why_not(subject: Row, rival: Row, of_rival: Sequence[Pair], *, suite: SuiteLike) -> str:
    """Why a sentence may not compare the subject with the rival; empty if it may."""
    both = f"{subject.method} and {rival.method}"
    if not of_rival:
        return f"{both} do not both have this accuracy"
    records = [*subject.records, *rival.records]
    kinds = OF_ENCODERS if is_untrained(rival) else OF_TRAINING
    if obstacles := against_accuracy(records, rows=suite.method, kinds=kinds):
        rerun = command(suite, subject.method, rival.method, more=" --rerun")
        return f"{both} are not of one experiment: {'; '.join(obstacles)}. Run {rerun}"
    if lost := lost_runs(subject, rival, suite=suite):
        return lost
    if not of_rival[-1].is_tested:
        theirs, ours = of_rival[-1].seeds
        return without_interval({subject.method: ours, rival.method: theirs}, suite=suite)
    return ""


def _reaches(subject: Row, name: str) -> str:
    """The mean accuracy of the subject, with its interval if it covers seeds."""
    summary, style, every = subject.summaries[name], style_of(name), len(subject.records)
    estimate = interval_of(subject, name)
    half = estimate.half_width() if estimate and estimate.seeds else None
    mean = show(summary.mean, half, style)
    if half is None:
        return f"{subject.method} reaches {mean} % with one seed, which has no interval"
    seeds = every if summary.n == every else f"{summary.n} of {every}"
    return f"{subject.method} reaches {mean} % ({seeds} seeds)"


def _without_a_network(
    subject: Row, done: Sequence[Row], pairs: Sequence[Pair], *, suite: SuiteLike
) -> list[str]:
    """A sentence on fixed features that are proven better than the subject."""
    better = []
    for row in done:
        of_row = [pair for pair in pairs if pair.method == row.method and pair.is_tested]
        fixed = trait_of(row, "gradient_flow") == GradientFlow.NONE and trait_of(row, "ablation")
        if fixed and of_row and not _why_not(subject, row, of_row, suite=suite):
            gap, half = of_row[-1].difference.value, _half_width(of_row[-1])
            better += [f"{row.method} by {gap:.1f} ± {half:.1f} points"] if gap > half else []
    return [f"Better without a trained network: {listed(better)}"] if better else []


def _caveats(rivals: Rivals, name: str, *, suite: SuiteLike) -> list[str]:
    """Reservations on the accuracy `name`: its probes, its training, and what each row declares."""
    subject, twin = rivals.subject, rivals.twin
    rows = [row for row in (subject, twin, rivals.untrained) if row]
    target = target_of(name)[0]
    learning = _in_seeds(rows, still_learning)
    unconverged = _in_seeds(rows, lambda record: target in unconverged_probes(record.metrics))
    caveats = []
    if unconverged:
        caveats.append(
            f"Linear probes of {listed(unconverged)} ran out of iterations: these accuracies may "
            f"be far too low"
        )
    if learning:
        caveats.append(
            f"As training ends, {listed(learning)} still learn{'s' if len(learning) == 1 else ''}: "
            f"longer training may change this answer"
        )
    if twin and (kinds := named([*subject.records, *twin.records], rows=suite.method)):
        caveats.append(f"The two are declared to differ in {listed(kinds)}")
    return caveats


def _in_seeds(rows: Sequence[Row], holds: Callable[[Record], bool]) -> list[str]:
    """A phrase for each row where it holds of a record: "gim in 2 of 3 seeds"."""
    return [
        f"{row.method} in {count} of {len(row.records)} seeds"
        for row in rows
        if (count := sum(map(holds, row.records)))
    ]


def _half_width(pair: Pair) -> float:
    assert pair.corrected is not None
    return pair.difference.half_width(pair.corrected.level) or 0.0
