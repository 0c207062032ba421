"""Learning rates of the rows, with the evidence that they were chosen by: `results/tuned`.

Every row has as many trials as the others, on the same rates and seeds. A rate's value is its mean
validation accuracy over the seeds, on examples whose labels nothing was trained on.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field, model_validator

from gim_bench.errors import ConfigError, unknown_name
from gim_bench.records.record import Record
from gim_bench.report.columns import NONE
from gim_bench.report.document import Block, Column, Section, Table
from gim_bench.report.published import results_folder
from gim_bench.seals import digest
from gim_bench.settings.base import Settings
from gim_bench.settings.keys import keyed
from gim_bench.settings.schema import CellConfig, Suite
from gim_bench.settings.suites import parse
from gim_bench.texts import read_text

KEPT_OUT = {"learning_rate", "precision"}  # of the settings of training
NOT_TUNED = "the suite's rate, not tuned"
NOTE = (
    "Validation is the mean over the sweep's seeds, in percent, of the top module's linear probe "
    "(with several targets: the mean over targets), on examples whose labels neither the encoder "
    "nor the probe was trained on. Lower and higher are the neighbours among the rates that were "
    "tried. Beyond the lowest or the highest of the space, a rate might do better."
)


class Tried(Settings):
    """One learning rate of a row, with its validation accuracy for each seed."""

    learning_rate: float
    # Percent, by seed; null where the trial failed or was pruned.
    validation_accuracy: dict[str, float | None]
    reasons: dict[str, str]  # by seed, why there is no accuracy

    @property
    def mean(self) -> float | None:
        """The mean over the seeds; None where a seed has no accuracy."""
        found = [x for x in self.validation_accuracy.values() if x is not None]
        return fmean(found) if len(found) == len(self.validation_accuracy) else None


class TunedRow(Settings):
    """All rates that were tried for a row, and the chosen one."""

    learning_rate: float
    settings: str  # sha256 of the row's settings without the rate
    tried: tuple[Tried, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _the_rate_is_the_best(self) -> "TunedRow":
        if self.learning_rate != (best := best_of(self.tried)):
            raise ValueError(f"the rate {self.learning_rate:g} is not the best one, {best}")
        return self

    def neighbour(self, step: int) -> Tried | None:
        """The next lower (-1) or next higher (1) rate that was tried; None at the edge."""
        by_rate = sorted(self.tried, key=lambda tried: tried.learning_rate)
        place = [tried.learning_rate for tried in by_rate].index(self.learning_rate) + step
        return by_rate[place] if 0 <= place < len(by_rate) else None


class Evidence(Settings):
    """A sweep over the learning rates of a suite's rows."""

    suite: str
    space: str  # the rates, as the user typed them
    trials: int  # of each row and seed
    seeds: tuple[int, ...]
    date: str
    results_version: int
    data_sha256: str
    # Commit, machine and versions of packages; a list of each where trials differ.
    provenance: dict[str, Any]
    methods: dict[str, TunedRow]


def best_of(tried: Sequence[Tried]) -> float | None:
    """The rate with the highest mean; among equals the lowest rate. None if no rate has a mean."""
    means = {each.learning_rate: mean for each in tried if (mean := each.mean) is not None}
    return min(means, key=lambda rate: (-means[rate], rate), default=None)


def load_evidence(name: str) -> Evidence:
    """The evidence `results/tuned/<name>.json`. Raises: ConfigError if it is missing or wrong."""
    files = {path.stem: path for path in sorted(results_folder("tuned").glob("*.json"))}
    if name not in files:
        raise ConfigError(unknown_name("evidence of tuning", name, known=files))
    return read_evidence(files[name])


def read_evidence(path: Path) -> Evidence:
    """The evidence in a file. Raises: OSError; ConfigError if the file holds something else."""
    try:
        table = json.loads(read_text(path))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({error}): write it again by a sweep") from None
    return parse(Evidence, table, origin=path.name)


def settings_sha256(config: CellConfig) -> str:
    """The sha256 of all settings but the rate, and but the device and precision of a machine.

    A sweep may choose on unseen examples where the suite does not: that setting does not count.
    """
    table = keyed(config)
    training = {name: x for name, x in table["training"].items() if name not in KEPT_OUT}
    probe = {name: x for name, x in (table["probe"] or {}).items() if name != "unseen_validation"}
    return digest({**table, "training": training, "probe": probe, "device": None})


def settings_of_rows(suite: Suite) -> dict[str, str]:
    """The sha256 of the settings but the rate of each row of a suite that names evidence.

    Rows whose method is not installed are left out.
    """
    import torch

    from gim_bench.cells.resolve import configs

    found = {}
    for method in suite.methods if suite.tuned else ():
        with suppress(ConfigError):
            config = configs(suite, methods=[method], device=torch.device("cpu"))[method]
            found[method] = settings_sha256(config)
    return found


def tuned_elsewhere(
    records: Sequence[Record], *, tuned: str | None, settings: Mapping[str, str]
) -> dict[str, str]:
    """Rows with evidence of other data, settings or results version: what is other, by method.

    `settings` has the sha256 of the settings of each row; a row without one counts as unchanged.
    """
    evidence = None if tuned is None else load_evidence(tuned)
    found: dict[str, str] = {}
    for record in records if evidence is not None else ():
        assert evidence is not None
        row = evidence.methods.get(record.method)
        if row is None:
            continue
        other = ["data"] if _data_of(record, evidence) != evidence.data_sha256 else []
        other += ["settings"] if settings.get(record.method, row.settings) != row.settings else []
        version = record.provenance.get("results_version", evidence.results_version)
        said = [f"tuned on other {' and '.join(other)}"] if other else []
        if version != evidence.results_version:
            said.append(f"tuned at results version {evidence.results_version}, not {version}")
        if said:
            found[record.method] = "; ".join(said)
    return found


def _data_of(record: Record, evidence: Evidence) -> str:
    """The sha256 of the record's data; where the record does not say, the evidence's."""
    return str(record.provenance.get("data_sha256") or evidence.data_sha256)


def rates_section(
    records: Sequence[Record], *, tuned: str | None, settings: Mapping[str, str]
) -> Section:
    """The learning rate of each trained row, and how it was chosen.

    `settings` has the sha256 of each row's settings but the rate.
    """
    evidence = None if tuned is None else load_evidence(tuned)
    trained = [record for record in records if "train/steps" in record.metrics]
    rates = {r.method: rate for r in trained if (rate := _rate(r)) is not None}
    elsewhere = tuned_elsewhere(trained, tuned=tuned, settings=settings)
    rows = [
        _row(method, rate, evidence=evidence, elsewhere=elsewhere.get(method, ""))
        for method, rate in rates.items()
    ]
    tried = () if evidence is None else ("lower", "chosen", "higher")
    headings = ("method", "rate", *tried, "remark")
    words = {"method", "remark"}
    table = Table(
        columns=[Column(heading=heading, numeric=heading not in words) for heading in headings],
        rows=rows,
    )
    notes = [] if evidence is None else [_origin(evidence), NOTE]
    blocks: list[Block] = [table, *notes]
    return Section(title="Learning rates", blocks=blocks if rows else [])


def _rate(record: Record) -> float | None:
    """The learning rate; None where a record does not name one."""
    rate = record.config.get("training", {}).get("learning_rate")
    return None if rate is None else float(rate)


def _row(method: str, rate: float, *, evidence: Evidence | None, elsewhere: str) -> list[str]:
    tuned = None if evidence is None else evidence.methods.get(method)
    if evidence is None:
        return [method, f"{rate:g}", NOT_TUNED]
    if tuned is None:
        return [method, f"{rate:g}", NONE, NONE, NONE, NOT_TUNED]
    chosen = next(t for t in tuned.tried if t.learning_rate == tuned.learning_rate)
    lower, higher = tuned.neighbour(-1), tuned.neighbour(1)
    shown = [_percent(lower), _percent(chosen), _percent(higher)]
    return [method, f"{rate:g}", *shown, "; ".join(filter(None, [elsewhere, _remark(rate, tuned)]))]


def _remark(rate: float, tuned: TunedRow) -> str:
    if rate != tuned.learning_rate:
        return f"not the chosen rate, which is {tuned.learning_rate:g}"
    for step, where in ((-1, "lowest"), (1, "highest")):
        if tuned.neighbour(step) is None:
            return f"the {where} of the space"
    return ""


def _percent(tried: Tried | None) -> str:
    """The mean validation accuracy with its rate; "failed" where a seed has none."""
    if tried is None:
        return NONE
    mean = "failed" if tried.mean is None else f"{tried.mean:.1f}"
    return f"{mean} ({tried.learning_rate:g})"


def _origin(evidence: Evidence) -> str:
    found = evidence.provenance.get("git_commit")
    commits = found if isinstance(found, list) else [found]
    shown = ", ".join(str(commit or "unknown")[:12] for commit in commits)
    seeds = ", ".join(map(str, evidence.seeds))
    return (
        f"Rates were tuned on {evidence.date[:10]} in suite {evidence.suite}: each row tried "
        f"{evidence.space} ({evidence.trials} trials) with seeds {seeds}, at commit {shown} "
        f"(results version {evidence.results_version})."
    )
