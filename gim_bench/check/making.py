"""Making a reference: cells that can serve to judge others, written to a file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from gim_bench import RESULTS_VERSION
from gim_bench.check.cells import Cells, cells_of, without_gradients
from gim_bench.check.reference import (
    Change,
    MethodReference,
    Reference,
    commit_of,
    machine_of,
    read_reference,
    was_resumed,
)
from gim_bench.check.sight import seeds_of_a_check, sights, unseen
from gim_bench.check.tolerance import COSTS, compared, kind_of
from gim_bench.errors import ConfigError
from gim_bench.records import provenance
from gim_bench.records.record import Record
from gim_bench.records.statistics import settings_of
from gim_bench.settings.schema import Suite
from gim_bench.system.atomic import write_atomically
from gim_bench.training.audit import leaks


def update(path: Path, records: Sequence[Record], *, suite: Suite, reason: str) -> list[str]:
    """Write the records' reference to that file, whole or not at all; return what it can see.

    The lines name each trained encoder's effect, and the seeds that suffice to notice half of it.
    The earlier reference in the file goes to the history. Raises: ConfigError where the records
    make no reference, the file is no reference of the suite, or the file cannot be written.
    """
    previous = read_reference(path, suite=suite.name) if path.exists() else None
    reference = new_reference(records, suite=suite, reason=reason, previous=previous)
    text = json.dumps(reference.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise ConfigError(
            f"cannot write {path} ({error.strerror}): name another file with --against"
        ) from None
    seen = [sight.described() for sight in sights(reference.methods, now=seeds_of_a_check(suite))]
    workers = reference.machine.workers
    left_out = f"memory and speed are left out, as {workers} workers shared the machine"
    return [*seen, *unseen(reference.methods), *([left_out] if workers > 1 else [])]


def new_reference(
    records: Sequence[Record], *, suite: Suite, reason: str, previous: Reference | None
) -> Reference:
    """A reference made of the newest records of the suite; `previous` goes to its history.

    Raises: ConfigError without a reason, where the records cannot serve to judge others, or where
    an untrained encoder would pass for a trained one.
    """
    if not reason.strip():
        raise ConfigError("a new reference needs a reason: --update --reason 'why numbers moved'")
    cells = cells_of(records, methods=suite.methods, rows=suite.method)
    _refuse(list(_problems(cells)))
    (first, *_), *_ = cells.by_method.values()
    methods = {}
    machine = machine_of(cells.records)
    for method, of_method in cells.by_method.items():
        names = compared(of_method[0].metrics)
        if machine.workers > 1:  # what they cost compares with nothing
            names = [name for name in names if kind_of(name) not in COSTS]
        methods[method] = MethodReference(
            config=settings_of(of_method[0])["config"],
            seeds=tuple(record.seed for record in of_method),
            metrics={name: {r.seed: r.metrics[name] for r in of_method} for name in names},
        )
    blind = [sight for sight in sights(methods, now=seeds_of_a_check(suite)) if not sight.sees]
    blind.sort(key=lambda sight: sight.effect / sight.reach.tolerance)  # most seeds needed first
    _refuse([f"an untrained encoder would pass: {sight.described()}" for sight in blind])
    earlier = [] if previous is None else [*previous.history, previous]
    return Reference(
        format=1,
        suite=suite.name,
        protocol=suite.protocol,
        results_version=RESULTS_VERSION,
        data_sha256=first.provenance["data_sha256"],
        reason=" ".join(reason.split()),
        date=provenance.now(),
        commit=commit_of(first.provenance),
        machine=machine,
        methods=methods,
        history=tuple(Change(reason=e.reason, date=e.date, commit=e.commit) for e in earlier),
    )


def _refuse(problems: Sequence[str]) -> None:
    """Raises: ConfigError with the first of the problems, if there are any."""
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"these records make no reference: {problems[0]}{more}")


def _problems(cells: Cells) -> Iterator[str]:
    """Why the cells make no reference, a line each, the most serious first."""
    yield from cells.problems
    records = cells.records
    dirty = {commit_of(r.provenance) for r in records if r.provenance.get("git_dirty")}
    for commit in sorted(dirty):
        yield (
            f"the cells are of {commit}, which nobody can check out: commit first, and run the "
            f"cells again"
        )
    # Uncommitted changes of today's code do not count: a reference that was just written is one.
    here = provenance.git_state()["git_commit"]  # None outside of a checkout
    for commit in sorted({str(r.provenance.get("git_commit") or "unknown") for r in records}):
        if here is not None and commit != here:
            yield (
                f"the cells are of commit {commit}, the code is {here}: run with --rerun, or into "
                f"a fresh --runs-dir"
            )
    for record in records:
        for leak in leaks(record):
            yield f"{record.method} seed {record.seed}: {leak}"
    for method, of_method in cells.by_method.items():
        if seeds := without_gradients(of_method):
            yield (
                f"gradients of {method} were not measured in seed {', '.join(seeds)}: run again "
                f"with --rerun"
            )
    yield from cells.undeclared
    for record in records:
        if was_resumed(record):
            yield (
                f"{record.method} seed {record.seed} was interrupted and resumed, which moves its "
                f"memory and speed: run the cell again with --rerun"
            )
    for method, of_method in cells.by_method.items():
        if len(of_method) < 2:
            yield (
                f"{method} has {len(of_method)} seed where a spread needs two or more: run with "
                f"--seeds"
            )
        for name in dict.fromkeys(name for r in of_method for name in compared(r.metrics)):
            without = [str(r.seed) for r in of_method if name not in r.metrics]
            if without:
                yield (
                    f"{method} seed {', '.join(without)} has no {name}, as others have: run again "
                    f"with --rerun"
                )
