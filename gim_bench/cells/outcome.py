"""The record of a cell, from the results of its phases."""

import errno
import statistics
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gim_bench import RESULTS_VERSION, registry
from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.phases import Finished
from gim_bench.cells.ranks import devices_in_words
from gim_bench.errors import BenchError, class_and_first_line, first_line, one_line
from gim_bench.hardware import energy, memory
from gim_bench.records import provenance
from gim_bench.records.folder import RunsFolder
from gim_bench.records.predictions import PARTS, Predictions
from gim_bench.records.record import Record, Status
from gim_bench.settings.schema import CellConfig
from gim_bench.training import capacity
from gim_bench.training.audit import Isolation
from gim_bench.training.loop import VALIDATION, joined

NOT_WRITTEN = "cannot be written"  # the first words of the error after a full disk
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def begun(cell: Cell, bench: Bench) -> Record:
    """The record of a cell that begins to run."""
    return Record(
        suite=cell.suite,
        method=cell.config.method.name,
        dataset=cell.config.dataset.name,
        seed=cell.seed,
        key=cell.key,
        status=Status.RUNNING,
        config=cell.config.as_dict(),
        protocol=cell.protocol,
        provenance={
            **provenance.describe(str(bench.device)),
            "precision": cell.config.training.precision,
            "data_sha256": cell.data_sha256,
            **({"data_dir": one_line(str(d.resolve()))} if (d := bench.dataset.data_dir) else {}),
            **({"data_incomplete": here} if (here := bench.dataset.incomplete()) else {}),
            **({"data_notes": notes} if (notes := [*bench.dataset.notes()]) else {}),
            **({"workers": bench.workers} if bench.workers > 1 else {}),
            **({"devices": at} if (at := devices_in_words(cell.config, bench)) else {}),
            **({"memory_limit_bytes": limit} if (limit := bench.memory_limit) else {}),
            "results_version": RESULTS_VERSION,
            **({"plugins": theirs} if (theirs := _plugins(cell.config)) else {}),
            "started_at": provenance.now(),
        },
    )


def _plugins(config: CellConfig) -> dict[str, str]:
    """Distributions of plug-ins that another package brought, as in {"method": "theirs 1.0"}."""
    named = {
        "method": config.method.like,
        "encoder": config.encoder.kind,
        "dataset": config.dataset.name,
    }
    found = {kind: registry.brought_by(kind, name) for kind, name in named.items()}
    return {kind: by for kind, by in found.items() if by and not by.startswith("gim-bench ")}


def predictions_of(finished: Sequence[Finished]) -> Predictions:
    """The predictions on the test labels of all models together."""

    def joined_up(part: str) -> dict[str, np.ndarray]:
        of_models = (getattr(found.probed.predictions, part) for found in finished)
        return {name: values for arrays in of_models for name, values in arrays.items()}

    return Predictions(**{part: joined_up(part) for part in PARTS})


def done(
    record: Record,
    finished: Sequence[Finished],
    *,
    largest: capacity.Capacity | None = None,
    files: Mapping[str, str] | None = None,
) -> Record:
    """The finished record. Costs of a cell's models add up; the highest of their peaks counts.

    `files` are the cell's files beside the encoders, with their sha256.
    """
    metrics: dict[str, float] = {}
    for found in finished:
        metrics |= dict(found.probed.metrics) | _last_losses(found)
    metrics |= _costs(finished)
    training = [found.training.peaks for found in finished]
    probing = [found.probe_peaks for found in finished]
    used = [found.training.used for found in finished]
    metrics |= _together(used) | _highest([x.metrics for x in training])
    metrics |= _highest([x.metrics for x in probing])
    metrics |= _highest([found.training.workers for found in finished])
    notes: dict[str, Any] = {"training": _notes(training), "probe": _notes(probing)}
    if largest is not None:
        notes["largest_batch"] = largest.note
        metrics |= {} if largest.batch is None else {"memory/largest_batch": largest.batch}
    return replace(
        record,
        status=Status.DONE,
        metrics=metrics,
        losses=joined([_prefixed(x, x.training.trained.losses) for x in finished]),
        inside=joined([_prefixed(x, x.training.trained.inside) for x in finished]),
        probe_curves={
            name: curve for found in finished for name, curve in found.probed.curves.items()
        },
        isolation=_isolation(finished),
        files={
            **{n: sha256 for found in finished for n, sha256 in found.files.items()},
            **(files or {}),
        },
        provenance={
            **record.provenance,
            "memory": notes,
            **({"energy": notes_of_energy} if (notes_of_energy := _notes(used)) else {}),
            **_resumed(finished),
            "finished_at": provenance.now(),
        },
    )


def _isolation(finished: Sequence[Finished]) -> Isolation:
    """Where the losses of all models reach; empty where that of a trained model is not known."""
    trained = [found.training for found in finished if found.training.trained.steps]
    if not all(training.audited.isolation for training in trained):
        return {}
    return {
        f"{found.model.prefix}{unit}": row
        for found in finished
        for unit, row in found.training.audited.isolation.items()
    }


def _costs(finished: Sequence[Finished]) -> dict[str, float]:
    """Seconds, and counts of training, of all models together; without those that are 0."""
    trainings = [found.training.trained for found in finished]
    steps, samples = sum(t.steps for t in trainings), sum(t.samples for t in trainings)
    seconds = sum(t.seconds for t in trainings)
    costs: dict[str, float] = {
        "selection/seconds": sum(found.selection_seconds for found in finished),
        "probe/seconds": sum(found.probe_seconds for found in finished),
        "train/seconds": seconds,
    }
    kept = max(t.kept_bytes for t in trainings)
    costs["train/kept_bytes"] = kept
    costs = {name: cost for name, cost in costs.items() if cost}
    if not steps:
        return costs
    costs |= {
        "train/steps": steps,
        "train/samples": samples,
        "train/samples_per_second": samples / seconds,
        "train/step_per_calibration": seconds / steps / _calibration(finished),
        "train/labels": sum(found.model.labels for found in finished),
        "train/parameters": sum(t.parameters for t in trainings),
    }
    if all(found.training.audited.flops for found in finished):
        costs["train/operations"] = sum(found.training.audited.flops for found in finished)
    return costs


def _highest(of_models: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The highest value of every metric that all models have."""
    first, *others = of_models
    return {
        name: max(found[name] for found in of_models)
        for name in first
        if all(name in found for found in others)
    }


def _together(used: Sequence[energy.Energy]) -> dict[str, float]:
    """The sum of every energy that all models have."""
    return {
        name: sum(found.metrics[name] for found in used)
        for name in used[0].metrics
        if all(name in found.metrics for found in used)
    }


def _notes(measured: Sequence[memory.Peaks | energy.Energy]) -> dict[str, str]:
    """Notes of the model with the fewest measurements: its notes give the reasons."""
    return min(measured, key=lambda found: len(found.metrics)).notes


def _calibration(finished: Sequence[Finished]) -> float:
    """Seconds of the fixed work, the mean over the models that were trained."""
    return statistics.fmean(
        x.training.calibration_seconds for x in finished if x.training.trained.steps
    )


def _last_losses(found: Finished) -> dict[str, float]:
    """Losses of the last epoch, by metric; the bare name is the loss of the top unit."""
    if not found.training.trained.losses:
        return {}
    prefix, losses = found.model.prefix, found.training.trained.losses[-1]
    named = {_loss_name(prefix, unit): x for unit, x in losses.items() if unit != "epoch"}
    for unit, loss in found.uninformed_losses.items():
        if unit in losses:  # not trained alone, as another unit is
            named[f"{prefix}uninformed_loss/{unit}"] = loss
    for top in found.top:
        of_top = [name for name in named if name.endswith(f"loss/{top}")]
        named |= {name.rpartition("/")[0]: named[name] for name in of_top}
    return named


def _loss_name(prefix: str, unit: str) -> str:
    """The metric of a unit's training loss or, with the prefix of histories, validation loss."""
    bare = unit.removeprefix(VALIDATION)
    return f"{prefix}loss/{unit}" if bare == unit else f"{prefix}validation_loss/{bare}"


def _resumed(finished: Sequence[Finished]) -> dict[str, Any]:
    """Steps of the checkpoints from which the models' trainings resumed, if any did."""
    steps = [found.training.trained.resumed_at for found in finished]
    return {} if steps == [None] * len(steps) else {"resumed_at_step": steps}


def _prefixed(found: Finished, rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Values of every epoch, with the model's prefix in their names."""
    return [
        {name if name == "epoch" else f"{found.model.prefix}{name}": x for name, x in row.items()}
        for row in rows
    ]


def failed(record: Record, error: Exception, *, runs: RunsFolder) -> Record:
    """The record of a cell that an error ended, with the reason in one line."""
    reason = str(error).strip() or "no message"
    fits = not memory.is_exhausted(error)
    if not fits:
        reason = f"does not fit: {first_line(error)}"
    elif isinstance(error, OSError) and error.errno in NO_ROOM:
        reason = f"{NOT_WRITTEN}: {reason}"
    elif not isinstance(error, BenchError):
        log = runs.save_log(record, traceback.format_exc())
        reason = f"{class_and_first_line(error)} (traceback in {log})"
    finished = {"finished_at": provenance.now()}
    return replace(
        record,
        status=Status.FAILED,
        error=one_line(reason),
        fits=fits,
        provenance={**record.provenance, **finished},
    )
