"""The file of a suite's reference: the metrics of every method, by seed, on a trusted commit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import FiniteFloat, ValidationError, model_validator

from gim_bench.check.tolerance import KINDS, kind_of
from gim_bench.errors import ConfigError, unknown_name
from gim_bench.records.record import Record
from gim_bench.report.published import results_folder
from gim_bench.settings.base import Settings
from gim_bench.texts import TextError, read_text

TRACKER = "mlflow"
# Packages whose version moves no accuracy and no loss; the package itself is what is checked.
NOT_COMPUTING = {"gim-bench", TRACKER}
PROCESSOR = ("cpu_identity", "cores")


class Machine(Settings):
    """The machine of the cells, which decides what is compared, and how."""

    cpu: str
    threads: int
    device: str
    gpu: str | None
    precision: str
    workers: int = 1  # processes that shared the machine
    # Kind of processor and versions of packages; None where the cells do not name them, or differ
    # in them or in their threads.
    exact: dict[str, str] | None = None

    def is_like(self, other: "Machine") -> bool:
        """Whether memory and speed of the two compare: the same device, processor and threads.

        Workers slow each other down, and which cells a worker ran before differs from run to run.
        """
        same = (self.device, self.gpu, self.threads) == (other.device, other.gpu, other.threads)
        alone = self.workers == other.workers == 1
        return same and alone and (self.device != "cpu" or self.cpu == other.cpu)

    def why_not_exact(self, other: "Machine") -> str:
        """Why cells of the two need not agree bit for bit; empty if the cells have to."""
        if "cpu" not in (self.device, other.device):
            return "a GPU does not repeat a training bit for bit"
        if self.exact is None or other.exact is None:
            whose = "the reference does" if other.exact is None else "these cells do"
            return (
                f"{whose} not name one kind of processor, one number of threads and one version of "
                f"every package"
            )
        ours, theirs = self.facts(), other.facts()
        differing = [
            f"{name} {ours.get(name)}, not {theirs.get(name)}"
            for name in dict.fromkeys([*ours, *theirs])
            if ours.get(name) != theirs.get(name)
        ]
        return "; ".join(differing)

    def facts(self) -> dict[str, object]:
        """Everything that has to agree for a seed to repeat bit for bit, by name."""
        return {**self.model_dump(exclude={"exact", "workers"}), **(self.exact or {})}

    def described(self) -> str:
        beside = f", {self.workers} workers" if self.workers > 1 else ""
        return f"{self.gpu or self.cpu}, {self.threads} thread(s){beside}"


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
        text = read_text(path)
    except (OSError, TextError) as error:
        why = getattr(error, "strerror", None) or error
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


def commit_of(found: Mapping[str, Any]) -> str:
    """The commit that a provenance names, as `git describe` would."""
    commit = found.get("git_commit") or "unknown"
    return f"{commit}-dirty" if found.get("git_dirty") else str(commit)


def was_resumed(record: Record) -> bool:
    """Whether the training went on from a checkpoint, which moves its memory and speed."""
    return "resumed_at_step" in record.provenance


def machine_of(records: Sequence[Record]) -> Machine:
    """The machine of the first record, and what decides the last bit, if all records share that."""
    found = records[0].provenance
    facts, *others = [(_exact_facts(r), r.provenance.get("threads")) for r in records]
    return Machine(
        cpu=str(found.get("cpu")),
        threads=int(found.get("threads") or 0),
        device=str(found.get("device")),
        gpu=found.get("gpu"),
        precision=str(found.get("precision")),
        workers=max(int(record.provenance.get("workers") or 1) for record in records),
        exact=facts[0] if all(other == facts for other in others) else None,
    )


def _exact_facts(record: Record) -> dict[str, str] | None:
    """Kind of processor and versions of packages; None for a record that does not name them."""
    found = record.provenance
    versions = found.get("versions") or {}
    if not versions or any(found.get(name) is None for name in PROCESSOR):
        return None
    return {name: str(found[name]) for name in PROCESSOR} | {
        f"version of {name}": str(version)
        for name, version in versions.items()
        if name not in NOT_COMPUTING
    }
