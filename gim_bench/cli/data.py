"""The commands `data prepare` and `data verify`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gim_bench.cli.options import (
    DataDirOption,
    QuietOption,
    SetOption,
    SkipOption,
    SuiteOption,
    overrides_of,
)
from gim_bench.system.streams import results_alone, show

if TYPE_CHECKING:
    from gim_bench.contract import Dataset

app = typer.Typer(help="Fetch or check the data of a suite.", no_args_is_help=True)


@app.command()
@results_alone()
def prepare(
    suite: SuiteOption,
    data_dir: DataDirOption = None,
    set_: SetOption = None,
    skip_bad_files: SkipOption = False,
    quiet: QuietOption = False,
) -> None:
    """Download or decode the data of a suite."""
    overrides = overrides_of(set_, skip_bad_files=skip_bad_files)
    dataset = _dataset(suite, overrides=overrides, data_dir=data_dir, quiet=quiet)
    dataset.prepare()
    _say_notes(dataset)
    show(f"the data of suite {suite!r} is ready")


@app.command()
@results_alone()
def verify(
    suite: SuiteOption,
    data_dir: DataDirOption = None,
    set_: SetOption = None,
    skip_bad_files: SkipOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check every file of a suite's data."""
    overrides = overrides_of(set_, skip_bad_files=skip_bad_files)
    dataset = _dataset(suite, overrides=overrides, data_dir=data_dir, quiet=quiet)
    dataset.verify()
    _say_notes(dataset)
    show(f"the data of suite {suite!r} is intact")


def _say_notes(dataset: "Dataset") -> None:
    for note in dataset.notes():
        dataset.progress.say(note)


def _dataset(
    suite: str, *, overrides: Sequence[str], data_dir: Path | None, quiet: bool
) -> "Dataset":
    from gim_bench.cells.resolve import dataset_of_suite
    from gim_bench.cli.display import progress_for
    from gim_bench.settings.suites import load_suite

    loaded = load_suite(suite, overrides=overrides)
    return dataset_of_suite(loaded, data_dir=data_dir, progress=progress_for(quiet=quiet))
