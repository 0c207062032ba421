"""The verdict of a check: the code is no worse, it is worse, or the records cannot tell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gim_bench import RESULTS_VERSION
from gim_bench.cells.defaults import settings_by_name
from gim_bench.check.cells import Cells, cells_of, without_gradients
from gim_bench.check.exact import Repeat, repeat
from gim_bench.check.outcome import EXIT_CODES, Outcome
from gim_bench.check.reference import Reference, commit_of, machine_of, was_resumed
from gim_bench.check.sight import sights
from gim_bench.check.tolerance import (
    ACCURACY,
    COSTS,
    FALSE_ALARMS,
    Difference,
    Kind,
    compare,
    compared,
    enough,
    kind_of,
)
from gim_bench.records import provenance
from gim_bench.records.metrics import unit_of
from gim_bench.records.record import Record
from gim_bench.records.statistics import settings_of
from gim_bench.settings.schema import Suite
from gim_bench.training.audit import leaks

UPDATE = "or write a new reference with --update --reason"
NOTHING_COMPARED = "nothing was compared: the reference has no metric that counts on this machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """The means of one metric of one method, in the reference and now."""

    method: str
    metric: str
    unit: str  # empty for a loss without a unit
    found: Difference

    @property
    def outcome(self) -> Outcome:
        return Outcome.WORSE if self.found.worse else Outcome.PASSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong besides a mean that moved, in one line."""

    outcome: Outcome
    what: str  # "settings", "gradient isolation", …
    message: str
    method: str = ""  # empty for a finding about all methods


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All comparisons and findings of a check."""

    suite: str
    commit: str  # of the records; empty without records
    reference: Reference
    level: float  # the chance of a false alarm that each comparison is given
    repeats: Sequence[Repeat]  # bit for bit; empty on another machine than the reference's
    compared: Sequence[Compared]  # by intervals, as far as not settled bit for bit
    findings: Sequence[Finding]
    notes: Sequence[str]

    @property
    def outcome(self) -> Outcome:
        """Worse wins over unjudged: what is known to be worse stays worse."""
        ordered = (Outcome.WORSE, Outcome.UNJUDGED)
        return next((outcome for outcome in ordered if outcome in self.outcomes), Outcome.PASSES)

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcome of every comparison and every finding."""
        return [
            *(r.outcome for r in self.repeats),
            *(c.outcome for c in self.compared),
            *(f.outcome for f in self.findings),
        ]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]


class _Pair(NamedTuple):
    """The values of a metric, by seed: the reference's and today's."""

    method: str
    metric: str
    unit: str
    kind: Kind
    before: Mapping[int, float]
    now: Mapping[int, float]

    def compared(self, *, level: float) -> Compared:
        before, now = list(self.before.values()), list(self.now.values())
        found = compare(before, now, kind=self.kind, level=level)
        return Compared(method=self.method, metric=self.metric, unit=self.unit, found=found)

    def repeat(self) -> Repeat | None:
        return repeat(self.before, self.now, method=self.method, metric=self.metric, unit=self.unit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparisons:
    """The metrics that can be compared, and a finding for each that cannot."""

    repeats: list[Repeat] = field(default_factory=list)
    pairs: list[_Pair] = field(default_factory=list)  # to be compared by intervals
    findings: list[Finding] = field(default_factory=list)


def judge(records: Sequence[Record], reference: Reference, *, suite: Suite) -> Verdict:
    """The verdict on the newest finished cells of every method of the suite or the reference.

    On the reference's machine, accuracies and losses of common seeds have to agree bit for bit.
    Everything else is compared by intervals. The chance of a false alarm is divided evenly among
    the latter comparisons (Bonferroni's correction), so that a check of unchanged code calls
    something worse in 1 % of all cases at the most.
    """
    methods = list(dict.fromkeys([*suite.methods, *reference.methods]))
    cells = cells_of(records, methods=methods, rows=suite.method)
    of_suite = list(_about_the_suite(cells, reference))
    of_methods = [] if of_suite else list(_about_the_methods(cells, reference))
    made = _Comparisons()
    if not of_suite:
        unjudged = {finding.method for finding in of_methods}
        judged = {m: found for m, found in cells.by_method.items() if m not in unjudged}
        exact = judged and not machine_of(cells.records).why_not_exact(reference.machine)
        made = _comparisons(judged, reference, exact=bool(exact))
        of_methods += [*made.findings, *_unaudited(judged)]
        if not (made.repeats or made.pairs or of_methods):
            of_methods.append(_unjudged("reference", f"{NOTHING_COMPARED}: run on one, {UPDATE}"))
    level = FALSE_ALARMS / max(1, len(made.pairs))
    compared = [pair.compared(level=level) for pair in made.pairs]
    return Verdict(
        suite=suite.name,
        commit=commit_of(cells.records[0].provenance) if cells.records else "",
        reference=reference,
        level=level,
        repeats=made.repeats,
        compared=compared,
        findings=[
            *_certain(cells),
            *of_suite,
            *of_methods,
            *_unseeing(compared, reference, level=level),
        ],
        notes=list(_notes(cells, reference)),
    )


# -- without statistics ----------------------------------------------------------------------------


def _certain(cells: Cells) -> Iterator[Finding]:
    """Findings that are worse whatever the reference says."""
    for record in cells.records:
        for leak in leaks(record):
            yield Finding(
                outcome=Outcome.WORSE,
                what="gradient isolation",
                message=f"seed {record.seed}: {leak}",
                method=record.method,
            )
    for difference in cells.undeclared:
        yield Finding(outcome=Outcome.WORSE, what="identical settings", message=difference)


def _about_the_suite(cells: Cells, reference: Reference) -> Iterator[Finding]:
    """Why no method can be compared."""
    if reference.results_version != RESULTS_VERSION:
        yield _unjudged(
            "results version",
            f"the reference is of results version {reference.results_version}, the code of "
            f"{RESULTS_VERSION}: write a new reference with --update --reason",
        )
    for problem in cells.problems:
        yield _unjudged("cells", problem)
    found = {str(record.provenance.get("data_sha256")) for record in cells.records}
    for sha256 in sorted(found - {reference.data_sha256}):
        yield _unjudged(
            "data",
            f"the data is another, sha256 {sha256[:12]}… where the reference has "
            f"{reference.data_sha256[:12]}…: use the same data, {UPDATE}",
        )
    code = provenance.git_state()
    here = commit_of(code)
    commits = {commit_of(record.provenance) for record in cells.records}
    # Outside of a checkout the code has no commit; several commits of cells are a problem above.
    if code["git_commit"] is not None and len(commits) == 1 and commits != {here}:
        yield _unjudged(
            "code",
            f"cells are of commit {commits.pop()}, the code is {here}: run with --rerun, or into "
            f"a fresh --runs-dir",
        )


def _about_the_methods(cells: Cells, reference: Reference) -> Iterator[Finding]:
    """Why some of the methods cannot be compared."""
    for method, records in cells.by_method.items():
        kept = reference.methods.get(method)
        if kept is None:
            message = "not in the reference: write a new one with --update --reason"
            yield _unjudged("reference", message, method)
            continue
        changed = _changed(kept.config, settings_of(records[0])["config"])
        if changed:
            message = f"other settings than the reference's: {'; '.join(changed)}: set them back"
            yield _unjudged("settings", f"{message}, {UPDATE}", method)


def _unaudited(by_method: Mapping[str, Sequence[Record]]) -> Iterator[Finding]:
    """Methods whose training says nothing of the reach of its gradients."""
    for method, records in by_method.items():
        if seeds := without_gradients(records):
            message = f"not measured in seed {', '.join(seeds)}: run again with --rerun"
            yield _unjudged("gradient isolation", message, method)


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, each with both values; an absent setting stands at its default."""
    old, new = settings_by_name(before), settings_by_name(now)
    return [
        f"{name} {new.get(name)}, not {old.get(name)}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def _unjudged(what: str, message: str, method: str = "") -> Finding:
    return Finding(outcome=Outcome.UNJUDGED, what=what, message=message, method=method)


# -- comparisons -----------------------------------------------------------------------------------


def _comparisons(
    by_method: Mapping[str, Sequence[Record]], reference: Reference, *, exact: bool
) -> _Comparisons:
    """The metrics of the reference beside today's, bit for bit where `exact`.

    A metric whose seeds all repeat the reference's bit for bit is settled, and needs no interval.
    """
    made = _Comparisons()
    for method, of_method in by_method.items():
        short: list[_Pair] = []
        for name in reference.methods[method].metrics:
            if not _counts_here(name, of_method, reference):
                continue
            pair = _pair(name, of_method, reference)
            if isinstance(pair, Finding):
                made.findings.append(pair)
                continue
            repeated = pair.repeat() if exact and pair.kind not in COSTS else None
            if repeated is not None:
                made.repeats.append(repeated)
            settled = repeated and not repeated.changes and not pair.now.keys() - pair.before.keys()
            if not settled:
                enough_seeds = enough(len(pair.before), len(pair.now))
                (made.pairs if enough_seeds else short).append(pair)
        made.findings.extend(_too_few(short))
    return made


def _pair(name: str, records: Sequence[Record], reference: Reference) -> _Pair | Finding:
    """The values of a metric in one method's records; a finding if the metric went missing."""
    method = records[0].method
    unit = unit_of(name, records[0].config)
    kind = kind_of(name, unit=unit)
    assert kind is not None
    usable = [r for r in records if not (kind in COSTS and was_resumed(r))]
    now = {r.seed: r.metrics[name] for r in usable if name in r.metrics}
    if len(now) < len(usable):
        message = f"{len(usable) - len(now)} of {len(usable)} cells do not have the metric"
        return _unjudged(name, f"{message}: run them again, {UPDATE}", method)
    return _Pair(method, name, unit, kind, reference.methods[method].metrics[name], now)


def _too_few(pairs: Sequence[_Pair]) -> Iterator[Finding]:
    """A finding for the metrics of one method that have the same too few seeds."""
    counts = dict.fromkeys((len(pair.before), len(pair.now)) for pair in pairs)
    for before, now in counts:
        about = [p for p in pairs if (len(p.before), len(p.now)) == (before, now)]
        yield _unjudged(
            ", ".join(pair.metric for pair in about),
            f"too few seeds that were not resumed: {now} here and {before} in the reference where "
            f"two and two, or one and three, are the fewest: run with --seeds, or with --rerun",
            about[0].method,
        )


def _counts_here(name: str, records: Sequence[Record], reference: Reference) -> bool:
    """Whether a metric may be compared: memory and speed only on a machine of the same kind."""
    return kind_of(name) not in COSTS or machine_of(records).is_like(reference.machine)


def _notes(cells: Cells, reference: Reference) -> Iterator[str]:
    """Facts that a reader needs to trust the verdict."""
    records = cells.records
    if not records:
        return
    if provenance.git_state()["git_dirty"] and any(r.provenance.get("git_dirty") for r in records):
        yield (
            "the cells and the code have uncommitted changes, which may not be the same: commit, "
            "and run into a fresh --runs-dir"
        )
    machine = machine_of(records)
    if not machine.is_like(reference.machine):
        yield (
            f"memory and speed are not compared: the reference is of "
            f"{reference.machine.described()}, these cells of {machine.described()}"
        )
    if why := machine.why_not_exact(reference.machine):
        yield f"accuracies and losses are compared by intervals, not bit for bit: {why}"
    resumed = [f"{record.method} seed {record.seed}" for record in records if was_resumed(record)]
    if resumed:
        yield f"memory and speed are compared without resumed cells: {', '.join(resumed)}"
    for method, of_method in cells.by_method.items():
        if method in reference.methods:
            known = reference.methods[method].metrics
            names = dict.fromkeys(name for record in of_method for name in compared(record.metrics))
            new = [n for n in names if n not in known and _counts_here(n, of_method, reference)]
            if new:
                yield f"{method} {', '.join(new)}: not in the reference, not compared"


def _unseeing(
    compared: Sequence[Compared], reference: Reference, *, level: float
) -> Iterator[Finding]:
    """Trained encoders in whose place an untrained one would pass this check by intervals."""
    seeds = {c.method: c.found.now.n for c in compared if kind_of(c.metric) is ACCURACY}
    now = min(seeds.values(), default=None)
    for sight in sights(reference.methods, now=now, level=level):
        if sight.method in seeds and not sight.sees:
            yield _unjudged(
                "sight", f"an untrained encoder would pass: {sight.described()}", sight.method
            )
