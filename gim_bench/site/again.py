"""A cell of a submission that ran again on this machine, against its record.

On the machine and with the versions of the record, every accuracy and every loss repeats bit for
bit. Elsewhere the two may differ by what `check` tolerates of one new seed. The spread of seeds,
which that tolerance is made of, is measured twice, and the smaller tolerance counts: with the claim
of the cell, and with the number that was found in its place. So a single claim that was moved does
not widen its own tolerance, and claims that were all moved stand far from what is found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gim_bench.cells.defaults import settings_by_name
from gim_bench.check.reference import commit_of, machine_of
from gim_bench.check.tolerance import ACCURACY, FALSE_ALARMS, Kind, Worse, compare, enough, kind_of
from gim_bench.errors import BenchError
from gim_bench.records import provenance
from gim_bench.records.metrics import METRICS, OF_OBJECTIVE, describe, unit_of
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import origin_of, settings_of, values_by_seed
from gim_bench.report.columns import PERCENT
from gim_bench.site.submissions import Submission
from gim_bench.site.verification import Number, Verification
from gim_bench.training.audit import leaks


class CannotJudgeError(BenchError):
    """The cell that ran again says nothing about its record, for the reason in one line."""


def verified(submission: Submission, *, claim: Record, again: Record, seed: int) -> Verification:
    """How the numbers of `claim`, which was drawn by `seed`, compare with those of `again`.

    Raises: CannotJudgeError.
    """
    claims = [record for record in submission.records if _is_alike(record, claim)]
    differs = machine_of([again]).why_not_exact(machine_of([claim]))
    obstacles = [*_obstacles(claim, again), *_too_few([claim, *claims], differs=differs)]
    if obstacles:
        cell = f"{claim.method} seed {claim.seed}"
        raise CannotJudgeError(f"{submission.name}: {cell} cannot be judged: {obstacles[0]}")
    names = [name for name in claim.metrics if _kind(name, claim)]
    level = FALSE_ALARMS / len(names)
    numbers = [
        Number(
            metric=name,
            claimed=claim.metrics[name],
            found=again.metrics[name],
            tolerated=_tolerated(name, claim, again, claims, level=level) if differs else 0.0,
        )
        for name in names
    ]
    return Verification(
        submission=submission.digest,
        seed=seed,
        method=claim.method,
        cell_seed=claim.seed,
        numbers=numbers,
        exact=not differs,
        commit=commit_of(again.provenance),
        machine=machine_of([again]).described(),
        at=provenance.now(),
    )


def _obstacles(claim: Record, again: Record) -> Iterator[str]:
    """Why the two cells are not the same experiment, or show nothing."""
    if again.status is not Status.DONE:
        yield f"the cell did not finish here: {again.error}"
        return
    if origin_of(claim) != origin_of(again):
        yield f"data or results version differ: {origin_of(claim)} there, {origin_of(again)} here"
    ours, theirs = (settings_by_name(settings_of(r)["config"]) for r in (again, claim))
    differing = [n for n in dict.fromkeys([*ours, *theirs]) if ours.get(n) != theirs.get(n)]
    if differing:
        yield f"settings differ: {', '.join(differing)}"
    yield from leaks(claim)
    absent = [name for name in claim.metrics if _kind(name, claim) and name not in again.metrics]
    if absent:
        yield f"the record has {', '.join(absent)}, and the cell has none of it here"
    if not any(_kind(name, claim) is ACCURACY for name in claim.metrics):
        yield "the record has no accuracy"


def _too_few(claims: Sequence[Record], *, differs: str) -> Iterator[str]:
    names = [name for name in claims[0].metrics if _kind(name, claims[0])]
    fewest = min((len(values_by_seed(claims, name)) for name in names), default=0)
    if differs and not enough(fewest, 1):
        yield (
            f"on another machine a method needs three seeds with every number, and has {fewest}; "
            f"this one is another, as {differs}"
        )


def _is_alike(record: Record, claim: Record) -> bool:
    """Whether a record is another seed of the same experiment."""
    same = (record.method, record.config) == (claim.method, claim.config)
    return same and origin_of(record) == origin_of(claim)


def _kind(name: str, record: Record) -> Kind | None:
    """How a metric is judged; None for time, memory, energy, counts, and what is unknown."""
    if name.partition("/module_")[0] not in METRICS:
        return None
    unit = describe(name).unit
    if unit == OF_OBJECTIVE:
        return kind_of("loss", unit=unit_of(name, record.config))
    return ACCURACY if unit == PERCENT else None


def _tolerated(
    name: str, claim: Record, again: Record, claims: Sequence[Record], *, level: float
) -> float:
    """The difference that `check` tolerates of a new seed, in the metric's unit."""
    kind = _kind(name, claim)
    assert kind is not None
    either = replace(kind, worse=Worse.EITHER)
    claimed = values_by_seed(claims, name)
    found = claimed | {claim.seed: again.metrics[name]}
    return min(
        compare(list(claimed.values()), [found[claim.seed]], kind=either, level=level).tolerance,
        compare(list(found.values()), [claimed[claim.seed]], kind=either, level=level).tolerance,
    )
