"""The command `patches`."""

import sys
from typing import Annotated

import typer

from gim_bench.cli.options import (
    FAILED,
    RUNS_DIR,
    DataDirOption,
    DeviceOption,
    MethodOption,
    NoTrackingOption,
    QuietOption,
    RunsDirOption,
    SetOption,
    SuiteOption,
    TrackingOption,
    tracker_for,
)
from gim_bench.cli.results import with_folder
from gim_bench.errors import ConfigError
from gim_bench.system.streams import show
from gim_bench.tracking import DEFAULT_URI

SeedsOption = Annotated[int, typer.Option(min=1, help="How many seeds, from 0 on.")]
NeuronsOption = Annotated[int, typer.Option(min=1, help="Neurons of each module.")]
PatchesOption = Annotated[int, typer.Option("--patches", min=1, help="Patches of each neuron.")]
ImagesOption = Annotated[int, typer.Option(min=1, help="Test images to look at, at most.")]


def patches(
    suite: SuiteOption,
    method: MethodOption = None,
    seeds: SeedsOption = 1,
    neurons: NeuronsOption = 8,
    per_neuron: PatchesOption = 8,
    images: ImagesOption = 2000,
    device: DeviceOption = "auto",
    set_: SetOption = None,
    data_dir: DataDirOption = None,
    runs_dir: RunsDirOption = RUNS_DIR,
    tracking_uri: TrackingOption = DEFAULT_URI,
    no_tracking: NoTrackingOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw the test patches that excite the neurons of finished encoders most."""
    from gim_bench.cells.patches import NoGridError, Sizes, check_images, draw_patches
    from gim_bench.cli.workload import workload_of
    from gim_bench.settings.suites import load_suite
    from gim_bench.tracking import mirror_cell

    tracker = None if no_tracking else tracker_for(tracking_uri, runs_dir=runs_dir)
    settings = load_suite(suite, overrides=set_ or ())
    check_images(suite, settings.augmentation)  # before the data are made
    work = workload_of(
        settings,
        methods=method or (),
        seeds=seeds,
        device=device,
        data_dir=data_dir,
        runs_dir=runs_dir,
        quiet=quiet,
    )
    work.share_of(work.cells, workers=1, alone=True)
    finished = work.finished()
    sizes = Sizes(neurons=neurons, patches=per_neuron, images=images)
    drawn = failed = 0
    for cell in work.cells:
        if (record := finished.get(cell.key)) is None:
            failed += 1
            print(f"left out: {cell.name}: not finished with these settings", file=sys.stderr)
            continue
        try:
            pictures = draw_patches(cell, record, work.bench, runs=work.runs, sizes=sizes)
        except ConfigError as error:
            failed += not isinstance(error, NoGridError)
            print(f"left out: {error}", file=sys.stderr)
            continue
        drawn += 1
        for path in pictures.files:
            show(path)
        if tracker is not None:
            mirror_cell(record, runs=work.runs, tracker=tracker, progress=work.progress)
    if not drawn:
        raise ConfigError(
            f"nothing was drawn: name finished cells with an encoder of images; first run "
            f"python -m gim_bench run {with_folder(work.suite, runs_dir).options}"
        )
    if failed:
        raise typer.Exit(FAILED)
