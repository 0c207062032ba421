"""The reference of a suite: what its metrics were, by seed, on a commit that was trusted."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import FiniteFloat, ValidationError, model_validator

from gim_bench import RESULTS_VERSION
from gim_bench.check.cells import cells_of, settings_of, without_gradients
from gim_bench.check.tolerance import KINDS, compared, kind_of
from gim_bench.errors import ConfigError, unknown_name
from gim_bench.records import provenance
from gim_bench.records.record import Record
from gim_bench.report.published import results_folder
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import Suite
from gim_bench.system.atomic import write_atomically
from gim_bench.training.audit import leaks


class Machine(Settings):
    """Where it was measured, which decides whether memory and speed are compared."""

    cpu: str
    threads: int
    device: str
    gpu: str | None
    precision: str

    def is_like(self, other: "Machine") -> bool:
        """Whether memory and speed of the two may be compared: what computes is the same."""
        same = (self.device, self.gpu, self.threads) == (other.device, other.gpu, other.threads)
        return same and (self.device != "cpu" or self.cpu == other.cpu)

    def described(self) -> str:
        return f"{self.gpu or self.cpu}, {self.threads} thread(s)"


class Change(Settings):
    """Why a reference was written, when, and from which code."""

    reason: str
    date: str  # ISO 8601, UTC
    commit: str  # of the cells; "-dirty" where there were uncommitted changes


class MethodReference(Settings):
    """What one method gave."""

    config: dict[str, Any]  # resolved, without the device
    seeds: tuple[int, ...]
    metrics: dict[str, dict[int, FiniteFloat]]  # by seed

    @model_validator(mode="after")
    def _a_value_for_each_seed(self) -> "MethodReference":
        for name, values in self.metrics.items():
            if set(values) != set(self.seeds):
                raise ValueError(f"{name} has values of seeds {sorted(values)}, not of every seed")
        return self


class Reference(Change):
    """The whole file; `history` holds what it said before, oldest first."""

    format: Literal[1]
    suite: str
    protocol: str
    results_version: int
    data_sha256: str
    machine: Machine
    methods: dict[str, MethodReference]
    history: tuple[Change, ...] = ()


def reference_path(suite: str) -> Path:
    """Where the reference of a shipped suite is kept."""
    return results_folder("reference") / f"{suite}.json"


def read_reference(path: Path, *, suite: str) -> Reference:
    """The reference in that file. Raises: ConfigError in one line, naming file and place."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise ConfigError(
            f"cannot read the reference {path} ({why}): name another with --against, or write "
            f"one with --update --reason"
        ) from None
    try:
        reference = Reference.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(_complaint(error, path)) from None
    if reference.suite != suite:
        raise ConfigError(
            f"{path} is the reference of suite {reference.suite!r}, not of {suite!r}: name another "
            f"with --against"
        )
    _check_metrics(reference, path)
    return reference


def _complaint(error: ValidationError, path: Path) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the file"
    message = first["msg"].removeprefix("Value error, ")
    return (
        f"{path}: {place}: {message[:1].lower() + message[1:]}: restore the file from version "
        f"control, or remove it and write it with --update --reason"
    )


def _check_metrics(reference: Reference, path: Path) -> None:
    for method, kept in reference.methods.items():
        for name in kept.metrics:
            if kind_of(name) is None:
                where = f"{path}: methods.{method}.metrics"
                raise ConfigError(unknown_name("compared metric", name, known=KINDS, where=where))


def update(path: Path, records: Sequence[Record], *, suite: Suite, reason: str) -> None:
    """The records' reference in that file, whole or not at all.

    What the file said before goes to its history. Raises: ConfigError where the records make no
    reference, the file is no reference of the suite, or it cannot be written.
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


def new_reference(
    records: Sequence[Record], *, suite: Suite, reason: str, previous: Reference | None
) -> Reference:
    """A reference made of the newest records of the suite; what was before goes to its history.

    Raises: ConfigError without a reason, or where the records could not be judged by.
    """
    if not reason.strip():
        raise ConfigError("a new reference needs a reason: --update --reason 'why numbers moved'")
    cells = cells_of(records, methods=suite.methods)
    problems = [
        *cells.problems,
        *_uncommitted(cells.records),
        *_of_other_code(cells.records),
        *_leaking(cells.records),
        *_unmeasured(cells.by_method),
        *cells.undeclared,
        *_resumed(cells.records),
        *_too_few_seeds(cells.by_method),
        *_not_on_every_seed(cells.by_method),
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"these records make no reference: {problems[0]}{more}")
    (first, *_), *_ = cells.by_method.values()
    return Reference(
        format=1,
        suite=suite.name,
        protocol=suite.protocol,
        results_version=RESULTS_VERSION,
        data_sha256=first.provenance["data_sha256"],
        reason=" ".join(reason.split()),
        date=provenance.now(),
        commit=commit_of(first.provenance),
        machine=machine_of(first),
        methods={method: _kept(of_method) for method, of_method in cells.by_method.items()},
        history=() if previous is None else (*previous.history, _change(previous)),
    )


def _uncommitted(records: Sequence[Record]) -> list[str]:
    commits = {commit_of(r.provenance) for r in records if r.provenance.get("git_dirty")}
    return [
        f"the cells are of {commit}, which nobody can check out: commit first, and run them again"
        for commit in sorted(commits)
    ]


def _of_other_code(records: Sequence[Record]) -> list[str]:
    """A reason that is given for today's code is not one for the cells of another commit.

    Uncommitted changes of the code are none of theirs: a reference that was just written is one.
    """
    here = provenance.git_state()["git_commit"]
    if here is None:  # outside of a checkout nothing is known of the code
        return []
    commits = {str(r.provenance.get("git_commit") or "unknown") for r in records}
    return [
        f"the cells are of commit {commit}, the code is {here}: run with --rerun, or into a fresh "
        f"--runs-dir"
        for commit in sorted(commits - {here})
    ]


def _leaking(records: Sequence[Record]) -> list[str]:
    return [f"{r.method} seed {r.seed}: {leak}" for r in records for leak in leaks(r)]


def _unmeasured(by_method: Mapping[str, Sequence[Record]]) -> list[str]:
    return [
        f"gradients of {method} were not measured in seed {', '.join(seeds)}: run again with "
        f"--rerun"
        for method, records in by_method.items()
        if (seeds := without_gradients(records))
    ]


def _resumed(records: Sequence[Record]) -> list[str]:
    return [
        f"{r.method} seed {r.seed} was interrupted and resumed, which moves its memory and speed: "
        f"run it again with --rerun"
        for r in records
        if was_resumed(r)
    ]


def _too_few_seeds(by_method: Mapping[str, Sequence[Record]]) -> list[str]:
    return [
        f"{method} has {len(records)} seed where a spread needs two or more: run with --seeds"
        for method, records in by_method.items()
        if len(records) < 2
    ]


def _not_on_every_seed(by_method: Mapping[str, Sequence[Record]]) -> list[str]:
    lines = []
    for method, records in by_method.items():
        for name in dict.fromkeys(name for r in records for name in compared(r.metrics)):
            without = [str(r.seed) for r in records if name not in r.metrics]
            if without:
                lines.append(
                    f"{method} seed {', '.join(without)} has no {name}, as others have: run again "
                    f"with --rerun"
                )
    return lines


def _kept(records: Sequence[Record]) -> MethodReference:
    """The metrics that are compared, which all of a method's seeds have."""
    names = compared(records[0].metrics)
    return MethodReference(
        config=settings_of(records[0]),
        seeds=tuple(record.seed for record in records),
        metrics={name: {r.seed: r.metrics[name] for r in records} for name in names},
    )


def _change(reference: Reference) -> Change:
    return Change(reason=reference.reason, date=reference.date, commit=reference.commit)


def commit_of(found: Mapping[str, Any]) -> str:
    """The commit that a provenance names, as `git describe` would."""
    commit = found.get("git_commit") or "unknown"
    return f"{commit}-dirty" if found.get("git_dirty") else str(commit)


def was_resumed(record: Record) -> bool:
    """Whether its costs are of a training that went on from a checkpoint."""
    return "resumed_at_step" in record.provenance


def machine_of(record: Record) -> Machine:
    found = record.provenance
    return Machine(
        cpu=str(found.get("cpu")),
        threads=int(found.get("threads") or 0),
        device=str(found.get("device")),
        gpu=found.get("gpu"),
        precision=str(found.get("precision")),
    )
