"""A suite that runs from Python, in this process."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w
import torch

from gim_bench.api.tables import table_of
from gim_bench.cells.bench import Bench
from gim_bench.cells.exchange import check_protocols
from gim_bench.cells.fresh_process import run_apart
from gim_bench.cells.pipelines import has_workers
from gim_bench.cells.resolve import cells, configs, dataset_of_suite
from gim_bench.cells.run import run_cell
from gim_bench.cells.shares import share_out
from gim_bench.cells.table import records_of, run_table
from gim_bench.errors import ConfigError
from gim_bench.hardware.devices import resolve_device
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record, Status
from gim_bench.report import check_sources
from gim_bench.settings.suites import load_suite


def run(
    suite: str | Path,
    *,
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    runs_dir: str | Path = "runs",
    data_dir: str | Path | None = None,
    device: str = "auto",
    rerun: bool = False,
    tell: Callable[[str], None] | None = print,
) -> pd.DataFrame:
    """Run the unfinished cells of a suite one after another, and return the table of all of them.

    `suite` is the name of a shipped suite or a TOML file; `methods` and `seeds` are the suite's own
    by default. `settings` are those of `--set`, {"training.epochs": 2}. Cells are the command's:
    they have the same keys, records and numbers, and a finished one is not run again unless `rerun`
    asks for it. Nothing is mirrored to MLflow, which `python -m gim_bench sync` does later.

    `tell` is called with a line for each cell. The table has the columns of `results`. A cell that
    fails has a row with the status "failed", and does not end the others.

    Raises: ConfigError for wrong arguments, names and settings, DataError if the data is not there
    or cannot carry a cell, OSError if a record cannot be written. An interruption leaves a
    checkpoint, from which the same call goes on.
    """
    named = [] if methods is None else _names(methods)
    if seeds is not None:
        _check_seeds(seeds)
    progress = _Lines(tell)
    loaded = load_suite(str(suite), overrides=overrides_of(settings or {}))
    check_sources(loaded)
    on = resolve_device(device)
    configured = configs(loaded, methods=named, device=on)
    check_protocols(loaded, configured.values(), device=on)
    place = None if data_dir is None else Path(data_dir)
    dataset = dataset_of_suite(loaded, data_dir=place, progress=progress)
    wanted = range(loaded.seeds if seeds is None else seeds)
    sha256 = dataset.fingerprint()
    table = cells(loaded, configured, seeds=wanted, data_sha256=sha256)
    bench, runs = Bench(dataset, device=on, progress=progress), RunsFolder(Path(runs_dir))
    for note in dataset.notes():
        progress.say(note)
    for config in configured.values():
        bench.check(config)
    runs.check_writable()
    before = records_of(table, runs)
    waiting = [c for c in table if rerun or not _is_done(before[c.key])]
    alone = loaded.fresh_process or any(map(has_workers, waiting))
    found: dict[str, Record] = {}
    with _threads_kept():
        share_out(waiting, device=on, workers=1, alone=alone).settle()
        how = run_apart if loaded.fresh_process else run_cell
        for record in run_table(table, bench, runs=runs, run=how, rerun=rerun, before=before):
            found[record.key] = record
            progress.say(_line(record))
    return table_of([found[cell.key] for cell in table], runs=runs)


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """The settings as `--set` takes them. Raises: ConfigError for a value that TOML cannot express.

    >>> overrides_of({"training.epochs": 2, "augmentation.blur": {"kernel": 3}})
    ['training.epochs=2', 'augmentation.blur={"kernel" = 3}']
    """
    items: object = settings
    if not isinstance(items, Mapping):
        raise ConfigError(
            f"settings is {settings!r}: give a dict of names and values, such as "
            f'{{"training.epochs": 2}}'
        )
    found = []
    for name, value in items.items():
        try:
            found.append(f"{name}={_inline_toml(value)}")
        except TypeError:
            raise ConfigError(
                f"settings: {name} is {value!r}: give text, a number, True or False, or a list or "
                f"dict of these; a setting that is left out has its default"
            ) from None
    return found


def _inline_toml(value: Any) -> str:
    """A value in TOML on one line. Raises: TypeError."""
    if isinstance(value, Mapping):
        items = (
            f"{_inline_toml(str(name))} = {_inline_toml(item)}" for name, item in value.items()
        )
        return f"{{{', '.join(items)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_inline_toml, value))}]"
    return tomli_w.dumps({"value": value}).partition(" = ")[2].strip()


def _names(methods: object) -> list[str]:
    """The methods as a list. Raises: ConfigError for one string, and for a list of none."""
    names = list(methods) if isinstance(methods, Iterable) else []
    if isinstance(methods, str) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"methods is {methods!r}: give a list of at least one name, such as ['gim'], or leave "
            f"it out to run every row of the suite"
        )
    return names


def _check_seeds(seeds: object) -> None:
    """Check the number of seeds, which may be an integer of NumPy. Raises: ConfigError."""
    if isinstance(seeds, bool) or not isinstance(seeds, Integral):
        raise ConfigError(f"seeds is {seeds!r}: give the number of seeds, such as 3")
    if seeds < 1:
        raise ConfigError(f"seeds is {seeds}: at least one is run")


def _is_done(record: Record | None) -> bool:
    return record is not None and record.status is Status.DONE


def _line(record: Record) -> str:
    cell = f"{record.method} seed {record.seed}: {record.status.value}"
    return f"{cell}: {record.error}" if record.error else cell


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Within the block, PyTorch may compute with another number of threads."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Lines(Silence):
    """Progress that hands its lines to a function, and shows no bars."""

    def __init__(self, tell: Callable[[str], None] | None) -> None:
        self.tell = tell

    def say(self, line: str) -> None:
        if self.tell is not None:
            self.tell(line)
