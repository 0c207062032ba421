"""Evidence for the learning rates of a suite's rows, from sweeps that tried the same rates."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gim_bench import RESULTS_VERSION
from gim_bench.cells.cell import Cell
from gim_bench.errors import ConfigError
from gim_bench.records import provenance
from gim_bench.records.record import Record
from gim_bench.report.rates import (
    Evidence,
    Tried,
    TunedRow,
    best_of,
    read_evidence,
    settings_sha256,
)
from gim_bench.settings.schema import CellConfig
from gim_bench.sweep.pretraining import Pretraining
from gim_bench.sweep.spaces import Axis

RATE = "training.learning_rate"
MACHINE = (
    "git_commit", "git_dirty", "versions", "cpu", "cpu_identity", "cores", "threads", "device",
    "gpu", "driver", "cuda",
)  # fmt: skip

Found = Mapping[str, Any]  # the sweep of a method and seed: docs/sweep.md


def rates_of(plan: Pretraining) -> Axis:
    """The axis of learning rates, which is the only one and tried whole. Raises: ConfigError."""
    rates = plan.axes[0] if len(plan.axes) == 1 else None
    if rates is None or rates.name != RATE or not rates.is_list:
        raise ConfigError(
            f"--evidence is about a list of learning rates, the same for all rows and seeds: give "
            f"the one option --space {RATE}=1e-3,3e-3,1e-2"
        )
    if not plan.grid:
        raise ConfigError(
            f"--evidence compares all {len(rates.ends)} rates of --space {RATE}={rates.text}, and "
            f"--trials {plan.trials} leaves some out: leave out --trials"
        )
    return rates


def check_unseen(cells: Sequence[Cell]) -> None:
    """Check that no encoder is scored on labels that it was trained on. Raises: ConfigError."""
    seen = [
        cell.config.method.name
        for cell in cells
        if cell.config.method.uses_labels
        and not (cell.config.probe and cell.config.probe.unseen_validation)
    ]
    if seen:
        raise ConfigError(
            f"--evidence would score {', '.join(dict.fromkeys(seen))} on labels that the encoder "
            f"was trained on: add --set probe.unseen_validation=true, which trains once more to "
            f"choose"
        )


def check_file(path: Path, cells: Sequence[Cell]) -> None:
    """Check that the evidence of `cells` can be written to `path`, and replaces no other row.

    Raises: ConfigError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
        rows = read_evidence(path).methods if path.exists() else {}
    except OSError as error:
        raise ConfigError(
            f"cannot write --evidence {path} ({error.strerror}): name another file"
        ) from None
    except ConfigError as error:
        raise ConfigError(
            f"--evidence {path} is there and is no evidence ({error}): remove it, or name another "
            f"file"
        ) from None
    swept = {cell.config.method.name for cell in cells}
    if others := [row for row in rows if row not in swept]:
        raise ConfigError(
            f"--evidence {path} has rows that this command does not sweep and would remove: "
            f"{', '.join(others)}; sweep them, too (all rows without --method), or name another "
            f"file"
        )


def evidence_of(
    swept: Sequence[Found], cells: Sequence[Cell], *, rates: Axis, records: Sequence[Record]
) -> Evidence:
    """The evidence of sweeps over all of `rates`; `cells` are the suite's own.

    Commit, date and machine are those of the `records` of the trials. Where trials differ, or the
    record of a trial is elsewhere (None), all that are found are listed.

    Raises: ConfigError if no rate of a row was completed with every seed.
    """
    by_key = {record.key: record.provenance for record in records}
    keys = [trial["key"] for found in swept for trial in found["trials"] if trial["key"]]
    origins = [by_key.get(key, {}) for key in keys]
    by_method = {cell.config.method.name: cell for cell in cells}
    return Evidence(
        suite=cells[0].suite,
        space=rates.text,
        trials=len(rates.ends),
        seeds=tuple(sorted({cell.seed for cell in cells})),
        date=max((o.get("finished_at") or "" for o in origins), default="") or provenance.now(),
        results_version=RESULTS_VERSION,
        data_sha256=cells[0].data_sha256,
        provenance={name: _of_all(origins, name) for name in MACHINE},
        methods={
            method: _row(
                [found for found in swept if found["method"] == method], cell.config, rates=rates
            )
            for method, cell in by_method.items()
        },
    )


def _of_all(origins: Sequence[Mapping[str, Any]], name: str) -> Any:
    """The fact of that name if it is the same of all trials, and a list of the facts if not."""
    facts: list[Any] = []
    for origin in origins:
        if origin.get(name) not in facts:
            facts.append(origin.get(name))
    return facts[0] if len(facts) == 1 else facts


def _row(swept: Sequence[Found], config: CellConfig, *, rates: Axis) -> TunedRow:
    """The row's rates, with their accuracies by seed. Raises: ConfigError."""
    seeds = [str(found["seed"]) for found in swept]
    untried: Found = {"validation_accuracy": None, "error": "not tried"}
    by_rate = {float(rate): dict.fromkeys(seeds, untried) for rate in rates.ends}
    for seed, found in zip(seeds, swept, strict=True):
        for trial in found["trials"]:
            by_rate[float(trial["settings"][RATE])][seed] = trial
    tried = tuple(
        Tried(
            learning_rate=rate,
            validation_accuracy={seed: t["validation_accuracy"] for seed, t in of_seeds.items()},
            reasons={
                seed: t["error"] or t["state"]
                for seed, t in of_seeds.items()
                if t["validation_accuracy"] is None
            },
        )
        for rate, of_seeds in sorted(by_rate.items())
    )
    best = best_of(tried)
    if best is None:
        raise ConfigError(
            f"no learning rate of {config.method.name} was completed with every seed, so none is "
            f"chosen: widen --space"
        )
    return TunedRow(learning_rate=best, settings=settings_sha256(config), tried=tried)
