"""The commands `list`, `data prepare` and `data verify`."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gim_bench.contract import Dataset
from gim_bench.cli.options import (
    DataDirOption,
    SetOption,
    SkipOption,
    SuiteOption,
    dataset_for,
    overrides_of,
)


class Listed(StrEnum):
    SUITES = "suites"
    METHODS = "methods"
    DATASETS = "datasets"


def list_(what: Listed) -> None:
    """List what can be named: suites, methods or datasets."""
    rows = _suite_rows() if what is Listed.SUITES else _plugin_rows(what)
    width = max(len(name) for name, _ in rows)
    for name, summary in rows:
        print(f"{name:<{width}}  {summary}".rstrip())


def _suite_rows() -> list[tuple[str, str]]:
    import tomllib

    from gim_bench.settings.suites import shipped_suites

    return [
        (name, tomllib.loads(path.read_text(encoding="utf-8"))["summary"])
        for name, path in shipped_suites().items()
    ]


def _plugin_rows(what: Listed) -> list[tuple[str, str]]:
    from gim_bench import registry

    table = registry.methods() if what is Listed.METHODS else registry.datasets()
    return [(name, registry.summary(target)) for name, target in sorted(table.items())]


def prepare(
    suite: SuiteOption,
    data_dir: DataDirOption = None,
    set_: SetOption = None,
    skip_bad_files: SkipOption = False,
) -> None:
    """Download or decode the data of a suite."""
    overrides = overrides_of(set_, skip_bad_files=skip_bad_files)
    _data_of(suite, overrides=overrides, data_dir=data_dir).prepare()
    print(f"the data of suite {suite!r} is ready")


def verify(
    suite: SuiteOption,
    data_dir: DataDirOption = None,
    set_: SetOption = None,
    skip_bad_files: SkipOption = False,
) -> None:
    """Check every file of a suite's data."""
    overrides = overrides_of(set_, skip_bad_files=skip_bad_files)
    _data_of(suite, overrides=overrides, data_dir=data_dir).verify()
    print(f"the data of suite {suite!r} is intact")


def _data_of(suite: str, *, overrides: "Sequence[str]", data_dir: Path | None) -> "Dataset":
    from gim_bench.cli.display import progress_for
    from gim_bench.settings.suites import load_suite

    loaded = load_suite(suite, overrides=overrides)
    return dataset_for(loaded, data_dir=data_dir, progress=progress_for())
