"""The reason why a cell would run or not: how its key differs from those of earlier records."""

from collections.abc import Mapping
from typing import Any

from gim_bench import RESULTS_VERSION
from gim_bench.cells.cell import Cell
from gim_bench.cells.defaults import settings_by_name
from gim_bench.cells.table import found
from gim_bench.records.claims import owner_of, seems_held
from gim_bench.records.folder import DAMAGED, RunsFolder
from gim_bench.records.record import Record, Status

SHOWN = 4  # differences


def why(cell: Cell, runs: RunsFolder, *, rerun: bool = False) -> str:
    """Whether the cell would run, and the reason, in one line; `rerun` runs finished cells, too."""
    record = found(cell, runs)
    if record is None:
        if runs.is_damaged(cell.suite, cell.config.method.name, seed=cell.seed, key=cell.key):
            return f"runs: {DAMAGED}"
        return f"runs: {_against_others(cell, runs)}"
    if record.status is Status.DONE:
        at = record.provenance.get("finished_at")
        return (
            f"runs: --rerun (it finished {at})"
            if rerun
            else f"done: nothing has changed since {at}"
        )
    if record.status is Status.FAILED:
        return f"runs: it failed before: {record.error}"
    owner = owner_of(runs.folder_of(record))
    if owner is not None and seems_held(runs.folder_of(record)):
        return f"waits: process {owner.pid} on {owner.host} is at it"
    return "runs: it was interrupted"


def _against_others(cell: Cell, runs: RunsFolder) -> str:
    """Differences from the most similar record of the same method and seed."""
    others = [
        _differences(cell, record)
        for record in runs.records(cell.suite)
        if (record.method, record.seed) == (cell.config.method.name, cell.seed)
    ]
    if not others:
        return "it has no record yet"
    nearest = min(others, key=len)
    more = f", and {len(nearest) - SHOWN} more" if len(nearest) > SHOWN else ""
    return f"{', '.join(nearest[:SHOWN])}{more}"


def _differences(cell: Cell, record: Record) -> list[str]:
    """Differences of settings, data and results version, as in "training.epochs is 10, was 8".

    A setting that the record lacks counts at its default. Where the kind of a table differs, the
    settings of the two kinds have nothing in common and are left out.
    """
    ours = _parts(cell.config.as_dict(), cell.data_sha256, RESULTS_VERSION)
    theirs = _parts(
        record.config,
        record.provenance.get("data_sha256"),
        record.provenance.get("results_version"),
    )
    differing = [n for n in sorted(ours.keys() | theirs.keys()) if ours.get(n) != theirs.get(n)]
    kinds = [name for name in differing if name.endswith(".kind") or name == "dataset.name"]
    of_a_kind = tuple(name.removesuffix("kind").removesuffix("name") for name in kinds)
    return [
        f"{name} is {_shown(ours.get(name))}, was {_shown(theirs.get(name))}"
        for name in differing
        if name in kinds or not name.startswith(of_a_kind)
    ]


def _parts(config: Mapping[str, Any], data_sha256: Any, results_version: Any) -> dict[str, Any]:
    """All that a key is made of, but for the seed."""
    return {
        **settings_by_name(config),
        "the data's sha256": data_sha256,
        "the results version": results_version,
    }


def _shown(value: Any) -> str:
    text = str(value)
    return f"{text[:8]}…" if len(text) == 64 else text
