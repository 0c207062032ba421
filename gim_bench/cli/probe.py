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
    RunsDirOption,
    SeedsOption,
    SetOption,
    SkipOption,
    SuiteOption,
    overrides_of,
)
from gim_bench.errors import BenchError, ConfigError
from gim_bench.system.streams import show

if TYPE_CHECKING:
    from gim_bench.cli.workload import Workload
    from gim_bench.settings.protocols import ProtocolSettings

ProtocolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        help="Only this protocol; may be repeated.  [default: the package's and the suite's]",
        show_default=False,
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
    rerun: RerunOption = False,
) -> None:
    """Read finished encoders again under other protocols, without training."""
    from gim_bench.settings.protocols import protocols_of
    from gim_bench.settings.suites import load_suite

    loaded = load_suite(suite, overrides=overrides_of(set_, skip_bad_files=skip_bad_files))
    if loaded.probe is None:
        raise ConfigError(f"suite {loaded.name!r} has no [probe]: no encoder of it is read")
    settings = protocols_of(loaded, protocol or ())
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
    )
    left_out = _read_all(work, settings, suite=suite, rerun=rerun)
    finished = list(work.finished().values())
    text = render_protocols(
        finished,
        suite=loaded,
        predictions=work.runs.predictions,
        results=KeptResults(work.runs.folder_of),
        names=list(settings),
    )
    show(text)
    if left_out:
        raise typer.Exit(FAILED)


def _read_all(
    work: "Workload", settings: "Mapping[str, ProtocolSettings]", *, suite: str, rerun: bool
) -> int:
    """Read every finished cell; returns the number of cells that are left out, each with a line.

    Raises: ConfigError if no cell is finished, or a protocol makes no sense on a cell.
    """
    from gim_bench.cells.exchange import protocols_on, read_again
    from gim_bench.hardware.memory import keep_freed_blocks

    keep_freed_blocks()
    finished = work.finished()
    if not finished:
        raise ConfigError(
            f"no finished cell with these settings in {work.runs.root}: first python -m gim_bench "
            f"run --suite {suite}, with the same --method, --seeds, --set and folders as here"
        )
    work.runs.check_writable()
    protocols = {cell.key: protocols_on(cell, settings) for cell in work.cells}
    left_out = 0
    for cell in work.cells:
        try:
            if cell.key not in finished:
                raise ConfigError("not finished with these settings")
            read_again(
                cell,
                finished[cell.key],
                work.bench,
                runs=work.runs,
                protocols=protocols[cell.key],
                rerun=rerun,
            )
        except BenchError as error:
            left_out += 1
            print(f"left out: {cell.name}: {error}", file=sys.stderr)
    return left_out
