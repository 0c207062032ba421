"""The answers on costs: time, operations, energy; and on memory, alone and in a pipeline."""

from collections.abc import Callable, Sequence
from typing import Any

from gim_bench.cells.defaults import settings_by_name
from gim_bench.report.columns import Row, trait_of
from gim_bench.report.document import Answer
from gim_bench.report.identical import listed
from gim_bench.report.obstacles import against_costs, failed_runs, lost_runs
from gim_bench.report.ratios import Ratio, own_cost, ratios
from gim_bench.report.rivals import Rivals, command, without_interval, without_twin
from gim_bench.report.suite_like import SuiteLike

COSTS, SAVES = "What does it cost?", "What does it save?"
TRAINING = {
    "train/seconds": "time",
    "train/operations": "operations",
    "energy/gpu_joules": "energy of the GPU",
    "energy/cpu_joules": "energy of the processors",
}
ENERGY = [name for name in TRAINING if name.startswith("energy/")]
ON_GPU, ON_HOST = "memory/gpu_allocated_over_baseline_bytes", "memory/host_over_baseline_bytes"
PLACES = {ON_GPU: "allocated on the GPU", ON_HOST: "of the host"}
NOT_KNOWN = "Not known"
NOT_MEASURED = "not measured: "  # begins the reasons in a record
MEMORY_SUITE = "`python -m gim_bench run --suite memory`"
WITHOUT_MODULES = (
    f"no finished rows train one module each (`only`, as gim_module_1 of the suite memory). "
    f"Run {MEMORY_SUITE}"
)
ONE_MODULE = {"method.name", "method.only"}  # settings of a row that trains one of the modules


def what_it_costs(rivals: Rivals, *, suite: SuiteLike) -> Answer:
    """Time, operations and energy of the subject's training, as shares of end to end."""
    subject, twin = rivals.subject, rivals.twin
    known = [name for name in TRAINING if name in subject.summaries]
    if not known or (why := _torn(subject, suite)):
        why = why if known else f"{subject.method} has no time of training"
        return Answer(question=COSTS, verdict=NOT_KNOWN, sentences=[f"No answer, because {why}"])
    own = f"Training {subject.method} takes {listed([own_cost(subject, n) for n in known])}"
    energy = [] if set(ENERGY) & {*known} else [_without_energy(subject)]
    if why := _why_not(twin, subject, suite=suite):
        sentences = [own, f"Against end to end: {why}", *energy]
        return Answer(question=COSTS, verdict=NOT_KNOWN, sentences=sentences)
    assert twin is not None
    found = ratios(subject, twin, known)
    parts = [f"{ratio.shown()} the {TRAINING[name]}" for name, ratio in found.items()]
    text = f": {listed(parts)} of {twin.method} (end to end)" if parts else ""
    lacking = [n for n in known if n not in found and n in twin.summaries]
    return Answer(
        question=COSTS,
        verdict=_verdict_on_time(found.get("train/seconds")),
        sentences=[
            f"{own}{text}",
            *([f"No ratio: {_no_ratio(subject, twin, suite=suite)}"] if lacking else []),
            *_resumed(subject, twin),
            *energy,
        ],
    )


def what_it_saves(rivals: Rivals, rows: Sequence[Row], *, suite: SuiteLike) -> Answer:
    """Peak memory of the subject, alone and in a pipeline, as shares of end to end.

    Rows that do not fit into memory are among `rows`, too.
    """
    subject, twin = rivals.subject, rivals.twin
    name = ON_GPU if ON_GPU in subject.summaries else ON_HOST
    too_large = [row.method for row in rows if not row.fits]
    sentences = [f"Too large for the memory: {listed(too_large)}"] if too_large else []
    if why := _no_memory(subject, name, suite) or _torn(subject, suite):
        return Answer(
            question=SAVES, verdict=NOT_KNOWN, sentences=[f"No answer, because {why}", *sentences]
        )
    own = f"{subject.method} peaks at {own_cost(subject, name)} {PLACES[name]}"
    if why := _why_not(twin, subject, suite=suite, lost=failed_runs):
        sentences = [f"Alone, {own}", f"Against end to end: {why}", *sentences]
        return Answer(question=SAVES, verdict=NOT_KNOWN, sentences=sentences)
    assert twin is not None
    alone = ratios(subject, twin, [name]).get(name)
    of_twin = f"the memory of {twin.method} (end to end)"
    if alone:
        sentences.append(f"Alone, {own}: {alone.shown()} {of_twin}")
    else:
        sentences += [f"Alone, {own}", f"No ratio: {_no_ratio(subject, twin, suite=suite)}"]
    in_pipeline, text = _in_pipeline(rivals, rows, name, suite=suite)
    return Answer(
        question=SAVES,
        verdict=_verdict_on_memory(alone, in_pipeline),
        sentences=[*sentences, f"In a pipeline{text}", *_leanest(rivals, name, suite=suite)],
    )


# -- reasons for saying nothing --------------------------------------------------------------------


def _torn(subject: Row, suite: SuiteLike) -> str:
    """Why the seeds of the subject do not compare with each other; empty if they do."""
    if not (obstacles := against_costs(subject.records, rows=suite.method)):
        return ""
    rerun = command(suite, subject.method, more=" --rerun")
    found = "; ".join(obstacles)
    return f"the seeds of {subject.method} were not measured alike: {found}. Run {rerun}"


def _why_not(
    twin: Row | None, *ours: Row, suite: SuiteLike, lost: Callable[..., str] = lost_runs
) -> str:
    """Why costs of our rows and the twin do not compare; empty if they do.

    `lost` says which runs are in no mean: memory does not depend on what was learnt.
    """
    if twin is None:
        return without_twin(ours[0], suite)
    rows = [*ours, twin]
    methods = [row.method for row in rows]
    records = [record for row in rows for record in row.records]
    if obstacles := against_costs(records, rows=suite.method):
        rerun = command(suite, *methods, more=" --rerun")
        return f"{listed(methods)} were not measured alike: {'; '.join(obstacles)}. Run {rerun}"
    return lost(*rows, suite=suite)


def _no_ratio(*rows: Row, suite: SuiteLike) -> str:
    """Why a cost of these rows has no ratio."""
    if all(len(row.records) > 1 for row in rows):
        return "a seed without a measurement, or with one of 0 or less, has no ratio"
    return without_interval({row.method: len(row.records) for row in rows}, suite=suite)


def _without_energy(subject: Row) -> str:
    notes = subject.records[0].provenance.get("energy") or {}
    reasons = [str(note).removeprefix(NOT_MEASURED) for note in notes.values()]
    known = "; ".join(dict.fromkeys(reasons)) or "the records are older than its measurement"
    return f"Energy: {NOT_MEASURED}{known}"


def _resumed(*rows: Row) -> list[str]:
    """A sentence on cells whose time is that of several processes together."""
    counts = [sum("resumed_at_step" in record.provenance for record in r.records) for r in rows]
    found = [
        f"{row.method} in {count} of {len(row.records)} seeds"
        for row, count in zip(rows, counts, strict=True)
        if count
    ]
    return [f"Interrupted and resumed, which adds to the time: {listed(found)}"] if found else []


def _no_memory(subject: Row, name: str, suite: SuiteLike) -> str:
    """Why the subject has no memory of its own; empty if it has."""
    if name not in subject.summaries:
        return f"{subject.method} has no peak of memory. Run {MEMORY_SUITE}"
    if name == ON_HOST and not suite.fresh_process:
        return (
            f"cells of this suite share processes, whose freed memory hides what a method needs "
            f"of the host. Run {MEMORY_SUITE}"
        )
    return ""


# -- parts of the answers --------------------------------------------------------------------------


def _in_pipeline(
    rivals: Rivals, rows: Sequence[Row], name: str, *, suite: SuiteLike
) -> tuple[Ratio | None, str]:
    """Memory of the largest module's own process over the twin's, and how the sentence goes on."""
    twin = rivals.twin
    modules = _rows_of_modules(rivals.subject, [row for row in rows if row.records], name)
    if not modules:
        return None, f": {WITHOUT_MODULES}"
    if (why := _why_not(twin, *modules, suite=suite, lost=failed_runs)) or twin is None:
        return None, f": {why}"
    largest = max(modules, key=lambda row: row.summaries[name].mean)
    if (ratio := ratios(largest, twin, [name]).get(name)) is None:
        return None, f": {_no_ratio(largest, twin, suite=suite)}"
    return ratio, (
        f" of a process for each module, the largest ({largest.method}) peaks at "
        f"{own_cost(largest, name)} at most: {ratio.shown()} the memory of {twin.method}"
    )


def _rows_of_modules(subject: Row, done: Sequence[Row], name: str) -> list[Row]:
    """The rows that train one module of the subject each.

    Empty if a module has no such row with this memory.
    """
    wanted = _settings(subject)
    rows = {
        str(trait_of(row, "only")): row
        for row in done
        if trait_of(row, "only") and name in row.summaries and _settings(row) == wanted
    }
    trained = {loss for loss in subject.summaries if loss.startswith("loss/module_")}
    return [*rows.values()] if trained <= {f"loss/{module}" for module in rows} else []


def _settings(row: Row) -> dict[str, Any]:
    settings = settings_by_name(row.records[0].config)
    return {name: value for name, value in settings.items() if name not in ONE_MODULE}


def _leanest(rivals: Rivals, name: str, *, suite: SuiteLike) -> list[str]:
    """The subject against the end-to-end row of least memory, if that is not the twin."""
    rows = [row for row in rivals.end_to_end if name in row.summaries]
    row = min(rows, key=lambda row: row.summaries[name].mean, default=None)
    if (
        row is None
        or row is rivals.twin
        or _why_not(row, rivals.subject, suite=suite, lost=failed_runs)
    ):
        return []
    ratio = ratios(rivals.subject, row, [name]).get(name)
    own = f"The leanest row end to end is {row.method} with {own_cost(row, name)}"
    return [f"{own}: {rivals.subject.method} has {ratio.shown()} its memory"] if ratio else []


def _verdict_on_time(ratio: Ratio | None) -> str:
    if ratio is None:
        return NOT_KNOWN
    if ratio.is_less:
        return "Less time than end to end"
    return "More time than end to end" if ratio.is_more else "No proven difference in time"


def _verdict_on_memory(alone: Ratio | None, in_pipeline: Ratio | None) -> str:
    parts = [_saved(alone, "alone"), _saved(in_pipeline, "in a pipeline")]
    text = "; ".join(parts) if alone or in_pipeline else "not known"
    return f"{text[:1].upper()}{text[1:]}"


def _saved(ratio: Ratio | None, where: str) -> str:
    if ratio is None:
        return f"{where}, not known"
    if ratio.is_less:
        return f"{100 * (1 - ratio.value):.0f} % of the memory {where}"
    return f"{'nothing' if ratio.is_more else 'nothing proven'} {where}"
