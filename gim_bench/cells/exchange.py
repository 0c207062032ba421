"""A finished cell under other protocols: its encoder is read again, and nothing is trained."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import Model, models_of
from gim_bench.cells.cell import Cell
from gim_bench.cells.frozen import SELECTION, files_of, frozen, has_selection
from gim_bench.cells.selection import is_selected_apart, learns_from_labels
from gim_bench.contract import Split
from gim_bench.errors import ConfigError, first_line
from gim_bench.hardware import memory
from gim_bench.hardware.devices import resolve_precision
from gim_bench.probing.exchange import Read, chooses, exchange
from gim_bench.records import provenance
from gim_bench.records.folder import RunsFolder
from gim_bench.records.predictions import PARTS, Predictions
from gim_bench.records.protocols import (
    ProtocolResult,
    predictions_of,
    results_of,
    save_result,
)
from gim_bench.records.record import Record
from gim_bench.settings.protocols import Protocol, ProtocolSettings, protocols_of, resolved
from gim_bench.settings.schema import CellConfig, Suite

NO_CHOOSER = (
    "the encoder that chooses hyperparameters on unseen labels was not kept with this older "
    "record: run the cell again with --rerun"
)
# Settings of a probe that decide which labels fit and which validate.
DRAW = ("validation_fraction", "labelled_fraction", "fitted_steps")
OTHER_LABELS = (
    "the encoder has learnt from labels, and is read with the "
    f"{', '.join(DRAW[:-1])} and {DRAW[-1]} of its suite's probe alone"
)


def check_protocols(suite: Suite, configs: Iterable[CellConfig], *, device: torch.device) -> None:
    """Check that `probe` can read cells under a suite's own protocols. Raises: ConfigError."""
    if suite.protocols:
        settings = protocols_of(suite)
        for config in configs:
            if config.probe is not None:
                protocols_on(config, settings, device=device)


def protocols_on(
    config: CellConfig, settings: Mapping[str, ProtocolSettings], *, device: torch.device
) -> list[Protocol]:
    """The protocols with the probes that they have on a cell, read on that device.

    Raises: ConfigError, also for a precision that the device lacks.
    """
    own = config.probe
    assert own is not None
    return [
        _on_device(resolved(name, each, own=own), device=device) for name, each in settings.items()
    ]


def _on_device(protocol: Protocol, *, device: torch.device) -> Protocol:
    """The protocol, with the precision that "auto" is on the device."""
    if protocol.probe.precision is None:
        return protocol
    try:
        precision = resolve_precision(protocol.probe.precision, device)
    except ConfigError as error:
        raise ConfigError(f"protocols.{protocol.name}.probe.precision: {error}") from None
    return replace(protocol, probe=protocol.probe.model_copy(update={"precision": precision}))


def read_again(
    cell: Cell,
    record: Record,
    bench: Bench,
    *,
    runs: RunsFolder,
    protocols: Sequence[Protocol],
    rerun: bool = False,
) -> dict[str, ProtocolResult]:
    """Results of the protocols on a finished cell, by name; they are on disk when this returns.

    A result that is there for these settings and weights is not made again, unless by `rerun`.

    Raises: ConfigError if weights are missing or damaged; DataError if too few have labels;
    MemoryError, with the results of all other protocols on disk, if protocols exhaust memory.
    """
    folder = runs.folder_of(record)
    earlier = results_of(record, folder=folder)
    holding = [] if rerun else [p for p in protocols if _holds(p, earlier, runs, record)]
    done = {
        protocol.name: earlier[protocol.name]
        for protocol in holding
        if _applies(protocol, cell, bench) or not earlier[protocol.name].metrics
    }
    missing = [protocol for protocol in protocols if protocol.name not in done]
    machine = provenance.describe(str(bench.device)) if missing else {}
    for protocol, read in _each_read(cell, record, bench, runs=runs, protocols=missing):
        reads = earlier[protocol.name].test_reads if protocol.name in earlier else 0
        result = ProtocolResult(
            protocol=protocol.name,
            suite=record.suite,
            method=record.method,
            seed=record.seed,
            key=record.key,
            settings=protocol.as_dict(),
            files=files_of(record),
            metrics=read.metrics,
            chosen=read.chosen,
            curves=read.curves,
            reason=read.reason,
            test_reads=reads + bool(read.metrics),
            provenance={
                **machine,
                "data_sha256": cell.data_sha256,
                "finished_at": provenance.now(),
            },
        )
        predictions = read.predictions if read.metrics else None
        done[protocol.name] = save_result(folder, result, predictions)
    return {protocol.name: done[protocol.name] for protocol in protocols}


def _holds(
    protocol: Protocol, earlier: Mapping[str, ProtocolResult], runs: RunsFolder, record: Record
) -> bool:
    """Whether a result is there, with these settings and with its predictions.

    A reason in place of numbers may have been that files were missing, which are there since.
    """
    result = earlier.get(protocol.name)
    if result is None or result.settings != protocol.as_dict():
        return False
    if not result.metrics:
        return dict(result.files) == files_of(record)
    return predictions_of(result, folder=runs.folder_of(record)) is not None


def _applies(protocol: Protocol, cell: Cell, bench: Bench) -> bool:
    """Whether the encoder has not seen labels that the protocol chooses or tests by.

    The encoder that chooses has not seen the validation labels of the cell; the encoder that is
    read has seen the labelled fraction of the cell. Both may know labels that are drawn otherwise.
    """
    own = cell.config.probe
    alike = all(getattr(protocol.probe, name) == getattr(own, name) for name in DRAW)
    knows_labels = cell.config.method.base_uses_labels or learns_from_labels(cell, bench)
    return alike or not knows_labels


def _each_read(
    cell: Cell, record: Record, bench: Bench, *, runs: RunsFolder, protocols: Sequence[Protocol]
) -> Iterator[tuple[Protocol, Read]]:
    """Results of the protocols; those of a group that exhausts memory are read one by one.

    Raises: MemoryError at the end, if single protocols exhaust memory.
    """
    waiting, exhausting = _grouped(protocols), []
    while waiting:
        alike = waiting.pop(0)
        found: dict[str, Read] = {}
        try:
            found = _exchanged(cell, record, bench, runs=runs, protocols=alike)
        except (MemoryError, RuntimeError) as error:
            if not memory.is_exhausted(error):
                raise
            if len(alike) > 1:
                waiting[:0] = [[protocol] for protocol in alike]
            else:
                exhausting.append(f"{alike[0].name} ({first_line(error)})")
        if found:
            yield from ((protocol, found[protocol.name]) for protocol in alike)
        else:  # the error is gone, which held on to the features
            memory.free(bench.device)
    if exhausting:
        raise MemoryError("; ".join(exhausting))


def _grouped(protocols: Sequence[Protocol]) -> list[list[Protocol]]:
    """The protocols that share features and labels, group by group."""
    groups: dict[str, list[Protocol]] = {}
    for protocol in protocols:
        groups.setdefault(json.dumps(protocol.group, sort_keys=True), []).append(protocol)
    return list(groups.values())


def _exchanged(
    cell: Cell, record: Record, bench: Bench, *, runs: RunsFolder, protocols: Sequence[Protocol]
) -> dict[str, Read]:
    """Results of protocols of one group, of all models of the cell together."""
    found: dict[str, Read] = {}
    for model in models_of(cell, bench):
        of_model = _of_model(cell, record, model, bench, runs=runs, protocols=protocols)
        found = {
            name: _joined(found[name], read) if name in found else read
            for name, read in of_model.items()
        }
    return found


def _of_model(
    cell: Cell,
    record: Record,
    model: Model,
    bench: Bench,
    *,
    runs: RunsFolder,
    protocols: Sequence[Protocol],
) -> dict[str, Read]:
    if not _applies(protocols[0], cell, bench):
        return {protocol.name: Read(reason=OTHER_LABELS) for protocol in protocols}
    apart = is_selected_apart(cell, bench)
    chooser, readable = None, protocols
    if apart and has_selection(record, model):
        chooser = frozen(cell, record, model, bench, runs=runs, kind=SELECTION)
    elif apart:
        readable = [protocol for protocol in protocols if not chooses(protocol.probe)]
    found = {protocol.name: Read(reason=NO_CHOOSER) for protocol in protocols}
    if not readable:
        return found
    whole = protocols[0].probe.whole_recordings
    train, test = (bench.batches(cell, split, whole=whole) for split in (Split.TRAIN, Split.TEST))
    return found | exchange(
        frozen(cell, record, model, bench, runs=runs),
        readable,
        chooser=chooser,
        train=train,
        test=test,
        targets=model.probed,
        precision=cell.config.training.precision,
        title=f"{model.name}: {', '.join(protocol.name for protocol in readable)}",
        progress=bench.progress,
    )


def _joined(one: Read, other: Read) -> Read:
    """The results of two models of a cell, each of its own targets."""
    both = (one, other)
    predictions = Predictions(
        **{
            part: {n: v for read in both for n, v in getattr(read.predictions, part).items()}
            for part in PARTS
        }
    )
    return replace(
        one,
        metrics={**one.metrics, **other.metrics},
        chosen={**one.chosen, **other.chosen},
        curves={**one.curves, **other.curves},
        predictions=predictions,
        reason="; ".join(dict.fromkeys(read.reason for read in both if read.reason)),
    )
