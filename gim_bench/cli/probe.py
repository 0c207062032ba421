"""The command `probe`."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench.cli.options import (
    FAILED,
    RUNS_DIR,
    DataDirOption,
    DeviceOption,
    MethodOption,
    QuietOption,
    RunsDirOption,
    SeedsOption,
    SetOption,
    SkipOption,
    SuiteOption,
    WorkersOption,
    overrides_of,
)
from gim_bench.errors import ConfigError
from gim_bench.settings.shipped import shipped_protocols
from gim_bench.system.streams import show

if TYPE_CHECKING:
    from gim_bench.cli.workload import Workload
    from gim_bench.settings.protocols import ProtocolSettings


def _protocols(beginning: str) -> list[str]:
    return [name for name in shipped_protocols() if name.startswith(beginning)]


ProtocolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        help="Only this protocol; may be repeated.  [default: the package's and the suite's]",
        show_default=False,
        autocompletion=_protocols,
    ),
]
RerunOption = Annotated[
    bool, typer.Option("--rerun", help="Read again what has been read under these protocols.")
]


def probe(
    suite: SuiteOption,
    protocol: ProtocolOption = None,
    method: MethodOption = None,
    seeds: SeedsOption = None,
    device: DeviceOption = "auto",
    set_: SetOption = None,
    data_dir: DataDirOption = None,
    skip_bad_files: SkipOption = False,
    runs_dir: RunsDirOption = RUNS_DIR,
    workers: WorkersOption = None,
    rerun: RerunOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read finished encoders again under other protocols, without training."""
    from gim_bench.settings.protocols import protocols_of
    from gim_bench.settings.suites import load_suite

    loaded = load_suite(suite, overrides=overrides_of(set_, skip_bad_files=skip_bad_files))
    if loaded.probe is None:
        raise ConfigError(f"suite {loaded.name!r} has no [probe]: no encoder of it is read")
    settings = protocols_of(loaded, protocol or ())
    from gim_bench.cells.resolve import describer
    from gim_bench.cli.workload import workload_of
    from gim_bench.records.protocols import KeptResults
    from gim_bench.report import render_protocols

    work = workload_of(
        loaded,
        methods=method or (),
        seeds=seeds,
        device=device,
        data_dir=data_dir,
        runs_dir=runs_dir,
        quiet=quiet,
    )
    left_out = _read_all(work, settings, workers=workers, rerun=rerun)
    finished = list(work.finished().values())
    text = render_protocols(
        finished,
        suite=loaded,
        describes=describer(loaded),
        predictions=work.runs.predictions,
        results=KeptResults(work.runs.folder_of),
        names=list(settings),
    )
    show(text)
    if left_out:
        raise typer.Exit(FAILED)


def _read_all(
    work: "Workload",
    settings: "Mapping[str, ProtocolSettings]",
    *,
    workers: int | None,
    rerun: bool,
) -> int:
    """Read every finished cell; returns the number of cells that are left out, each with a line.

    Raises: ConfigError if no cell is finished, or a protocol makes no sense on a cell.
    """
    from gim_bench.cells.exchange import protocols_on
    from gim_bench.cells.readers import Reading, read_all

    finished = work.finished()
    if not finished:
        raise ConfigError(
            f"no finished cell with these settings in {work.runs.root}: first python -m gim_bench "
            f"run {work.suite.options}, with the same --method, --seeds and folders as here"
        )
    work.runs.check_writable()
    device = work.bench.device
    protocols = {
        cell.key: protocols_on(cell.config, settings, device=device) for cell in work.cells
    }
    readings = [
        Reading(cell=cell, record=finished[cell.key], protocols=protocols[cell.key])
        for cell in work.cells
        if cell.key in finished
    ]
    alone = work.suite.fresh_process
    share = work.share_of([each.cell for each in readings], workers=workers, alone=alone)
    errors = read_all(readings, work.bench, runs=work.runs, share=share, rerun=rerun)
    unfinished = {
        cell.key: "not finished with these settings"
        for cell in work.cells
        if cell.key not in finished
    }
    left_out = unfinished | dict(errors)
    for cell in work.cells:
        if cell.key in left_out:
            print(f"left out: {cell.name}: {left_out[cell.key]}", file=sys.stderr)
    return len(left_out)
