"""The command `export`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from gim_bench.cli.options import (
    RUNS_DIR,
    DataOption,
    RunsDirOption,
    SetOption,
    SuiteOption,
    method_names,
)
from gim_bench.cli.results import found_records, with_folder
from gim_bench.errors import ConfigError
from gim_bench.records.record import Status
from gim_bench.system.streams import show

OneMethodOption = Annotated[
    str, typer.Option("--method", help="The method.", autocompletion=method_names)
]
SeedOption = Annotated[int, typer.Option(min=0, help="The seed.")]
FolderOption = Annotated[Path, typer.Option(help="A new folder for the encoder and its card.")]
LicenceOption = Annotated[
    str, typer.Option(help='Of the weights, as Hugging Face names it: "mit", "cc-by-4.0".')
]


def export(
    suite: SuiteOption,
    method: OneMethodOption,
    output: FolderOption,
    seed: SeedOption = 0,
    licence: LicenceOption = "unknown",
    set_: SetOption = None,
    data: DataOption = None,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Write a trained encoder with a model card, for PyTorch with and without gim_bench."""
    from gim_bench.api.export import export as write
    from gim_bench.records.folder import RunsFolder
    from gim_bench.settings.suites import load_suite

    loaded = load_suite(suite, overrides=set_ or ())
    found = [
        record
        for record in found_records(loaded, runs_dir, data=data).records
        if (record.method, record.seed) == (method, seed)
    ]
    finished = [record for record in found if record.status is Status.DONE]
    if not finished:
        state = f"the cell is {found[0].status.value}" if found else "no record of this cell"
        raise ConfigError(
            f"nothing to export: {method} seed {seed} of suite {loaded.name!r} with these settings "
            f"in {runs_dir}: {state}; first run python -m gim_bench run "
            f"{with_folder(loaded, runs_dir).options} --method {shlex.quote(method)} "
            f"--seeds {seed + 1}"
        )
    newest = max(finished, key=lambda record: str(record.provenance.get("finished_at")))
    folder = write(RunsFolder(runs_dir).folder_of(newest), output, licence=licence)
    show(f"wrote {folder}: README.md is the model card, encoder.py needs PyTorch and safetensors")
