"""Options that several commands share, and what commands make of them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gim_bench.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gim_bench.cells.bench import Bench
    from gim_bench.cells.pretrained import Base
    from gim_bench.contract import Dataset
    from gim_bench.progress import Progress
    from gim_bench.settings.schema import CellConfig, Suite
    from gim_bench.tracking.client import Tracker


FAILED = 1


WRONG_USE = 2


INTERRUPTED = 130


LONGEST_SECONDS = 10**8  # three years; clocks cannot be set to any number


SuiteOption = Annotated[str, typer.Option("--suite", help="A shipped suite, or a TOML file.")]


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value for a setting, as in training.epochs=10."),
]


DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Where the data set's files are.")
]


SkipOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad-files", help="Leave out files that cannot be read; says how many. For speech."
    ),
]


RunsDirOption = Annotated[Path, typer.Option("--runs-dir", help="Where the records are.")]


MethodOption = Annotated[
    list[str] | None, typer.Option("--method", help="Only this method; may be repeated.")
]


SeedsOption = Annotated[int | None, typer.Option(min=1, help="How many seeds, from 0 on.")]


DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>.")]


TrackingOption = Annotated[
    str, typer.Option(envvar="MLFLOW_TRACKING_URI", help="The MLflow store to mirror to.")
]


NoTrackingOption = Annotated[bool, typer.Option("--no-tracking", help="Without MLflow.")]


def overrides_of(set_: list[str] | None, *, skip_bad_files: bool) -> list[str]:
    return [*(set_ or ()), *(["dataset.skip_bad_files=true"] if skip_bad_files else ())]


def bench_for(
    suite: "Suite",
    *,
    methods: "Sequence[str]",
    device: str,
    data_dir: Path | None,
    progress: "Progress",
    base: "Base | None",
) -> "tuple[Bench, dict[str, CellConfig]]":
    """The suite's data on its device, and the configurations of its methods; all checked."""
    from gim_bench.cells.bench import Bench
    from gim_bench.cells.resolve import configs
    from gim_bench.hardware.devices import resolve_device

    resolved = resolve_device(device)
    configured = configs(suite, methods=methods, device=resolved, base=base)
    dataset = dataset_for(suite, data_dir=data_dir, progress=progress)
    return Bench(dataset, device=resolved, progress=progress), configured


def dataset_for(suite: "Suite", *, data_dir: Path | None, progress: "Progress") -> "Dataset":
    from gim_bench.cells.resolve import dataset_of

    kind, options = dataset_of(suite)
    if data_dir is not None and not kind.needs_data_dir:
        raise ConfigError(
            f"the data set {suite.dataset.name!r} of suite {suite.name!r} takes no --data-dir; "
            f"for your own images use --suite folder, for recordings --suite folder-audio"
        )
    return kind(options=options, data_dir=data_dir, cache_dir=cache_dir(), progress=progress)


def cache_dir() -> Path:
    """Decoded images and checksums: $GIM_BENCH_CACHE, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("GIM_BENCH_CACHE") or platformdirs.user_cache_dir("gim-bench"))


def tracker_for(uri: str) -> "Tracker":
    from gim_bench.tracking.client import Tracker

    tracker = Tracker(uri)
    tracker.check()
    return tracker
