"""The reference of a suite: the metrics of every method, by seed, on a trusted commit."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import FiniteFloat, ValidationError, model_validator

from gim_bench import RESULTS_VERSION
from gim_bench.check.cells import Cells, cells_of, without_gradients
from gim_bench.check.tolerance import KINDS, compared, kind_of
from gim_bench.errors import ConfigError, unknown_name
from gim_bench.records import provenance
from gim_bench.records.record import Record
from gim_bench.records.statistics import settings_of
from gim_bench.report.published import results_folder
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import Suite
from gim_bench.system.atomic import write_atomically
from gim_bench.training.audit import leaks


class Machine(Settings):
    """The machine of the cells, which decides whether memory and speed are compared."""

    cpu: str
    threads: int
    device: str
    gpu: str | None
    precision: str

    def is_like(self, other: "Machine") -> bool:
        """Whether memory and speed of the two compare: the same device, processor and threads."""
        same = (self.device, self.gpu, self.threads) == (other.device, other.gpu, other.threads)
        return same and (self.device != "cpu" or self.cpu == other.cpu)

    def described(self) -> str:
        return f"{self.gpu or self.cpu}, {self.threads} thread(s)"


class Change(Settings):
    """The reason, the date and the code of a reference."""

    reason: str
    date: str  # ISO 8601, UTC
    commit: str  # of the cells; ends in "-dirty" if there were uncommitted changes


class MethodReference(Settings):
    """The results of one method."""

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
    """The whole file; `history` holds the earlier references, oldest first."""

    format: Literal[1]
    suite: str
    protocol: str
    results_version: int
    data_sha256: str
    machine: Machine
    methods: dict[str, MethodReference]
    history: tuple[Change, ...] = ()


def reference_path(suite: str) -> Path:
    """The file of a shipped suite's reference."""
    return results_folder("reference") / f"{suite}.json"


def read_reference(path: Path, *, suite: str) -> Reference:
    """The reference of the suite in that file.

    Raises: ConfigError in one line, naming file and place.
    """
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
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"{path}: {place}: {message[:1].lower() + message[1:]}: restore the file from version "
            f"control, or remove it and write it with --update --reason"
        ) from None
    if reference.suite != suite:
        raise ConfigError(
            f"{path} is the reference of suite {reference.suite!r}, not of {suite!r}: name another "
            f"with --against"
        )
    for method, kept in reference.methods.items():
        for name in kept.metrics:
            if kind_of(name) is None:
                where = f"{path}: methods.{method}.metrics"
                raise ConfigError(unknown_name("compared metric", name, known=KINDS, where=where))
    return reference


def update(path: Path, records: Sequence[Record], *, suite: Suite, reason: str) -> None:
    """Write the records' reference to that file, whole or not at all.

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


def new_reference(
    records: Sequence[Record], *, suite: Suite, reason: str, previous: Reference | None
) -> Reference:
    """A reference made of the newest records of the suite; `previous` goes to its history.

    Raises: ConfigError without a reason, or where the records cannot serve to judge others.
    """
    if not reason.strip():
        raise ConfigError("a new reference needs a reason: --update --reason 'why numbers moved'")
    cells = cells_of(records, methods=suite.methods, rows=suite.method)
    problems = list(_problems(cells))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"these records make no reference: {problems[0]}{more}")
    (first, *_), *_ = cells.by_method.values()
    methods = {}
    for method, of_method in cells.by_method.items():
        names = compared(of_method[0].metrics)
        methods[method] = MethodReference(
            config=settings_of(of_method[0])["config"],
            seeds=tuple(record.seed for record in of_method),
            metrics={name: {r.seed: r.metrics[name] for r in of_method} for name in names},
        )
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
        machine=machine_of(first),
        methods=methods,
        history=tuple(Change(reason=e.reason, date=e.date, commit=e.commit) for e in earlier),
    )


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


def commit_of(found: Mapping[str, Any]) -> str:
    """The commit that a provenance names, as `git describe` would."""
    commit = found.get("git_commit") or "unknown"
    return f"{commit}-dirty" if found.get("git_dirty") else str(commit)


def was_resumed(record: Record) -> bool:
    """Whether the training went on from a checkpoint, which moves its memory and speed."""
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
