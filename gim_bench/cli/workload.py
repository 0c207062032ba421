"""The cells that a command line asks for, with their data and their records.

This module imports PyTorch, so commands import it when they are called.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch

from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.data_parallel import shares_batches
from gim_bench.cells.exchange import check_protocols
from gim_bench.cells.fresh_process import run_apart
from gim_bench.cells.pipelines import check_devices_of_workers, has_workers
from gim_bench.cells.pretrained import Base
from gim_bench.cells.ranks import check_cells, check_data, with_all_ranks
from gim_bench.cells.resolve import cells, configs, dataset_of_suite
from gim_bench.cells.run import run_cell
from gim_bench.cells.shares import Share, share_out
from gim_bench.cells.table import RunCell, records_before, records_of, run_table
from gim_bench.cells.workers import run_by_workers
from gim_bench.cli.display import Lines, progress_for
from gim_bench.errors import ConfigError
from gim_bench.hardware import memory
from gim_bench.hardware.devices import resolve_device
from gim_bench.hardware.threads import cores, idle_cores
from gim_bench.progress import Progress
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record, Status
from gim_bench.report import check_sources
from gim_bench.settings.schema import CellConfig, Suite
from gim_bench.system.streams import appended
from gim_bench.training.agents import Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The cells of one command, with the data they share and the folder of their records."""

    suite: Suite
    configs: Mapping[str, CellConfig]  # by the name of the method
    cells: Sequence[Cell]
    bench: Bench
    runs: RunsFolder
    base: Base | None

    @property
    def progress(self) -> Progress:
        return self.bench.progress

    def check(self) -> None:
        """Check that the data and the base can carry every cell, and say the notes of the data.

        The published tables and the evidence that the suite names are there, too.
        Raises: ConfigError or DataError.
        """
        check_sources(self.suite)
        check_protocols(self.suite, self.configs.values(), device=self.bench.device)
        self._check_limit()
        if self.bench.ranks is None:
            check_devices_of_workers(self.configs.values(), self.bench.devices)
        else:
            check_cells(self.suite, self.configs.values(), self.bench.ranks.rank)
        for note in self.bench.dataset.notes():
            self.progress.say(note)
        for config in self.configs.values():
            if self.base is not None:
                self.base.check(config, data_sha256=self.cells[0].data_sha256)
            self.bench.check(config)
        if self.bench.ranks is not None and any(map(shares_batches, self.cells)):
            check_data(self.bench, self.bench.ranks, sha256=self.cells[0].data_sha256)

    def _check_limit(self) -> None:
        """The memory limit holds for a process of one cell, and leaves it some memory."""
        limit, idle = self.bench.memory_limit, memory.held_bytes()
        if limit is None:
            return
        if not self.suite.fresh_process:
            raise ConfigError(
                f"--memory-limit is for suites whose cells have processes of their own, and those "
                f"of {self.suite.name!r} have none: leave it out, or --set fresh_process=true"
            )
        if idle is None:
            raise ConfigError("--memory-limit needs Linux, which keeps it: leave it out")
        if limit <= idle:
            raise ConfigError(
                f"a memory limit of {limit / 1e9:.2f} GB (--memory-limit) is below the "
                f"{idle / 1e9:.2f} GB that a process holds before it works: raise it"
            )

    def records(self) -> dict[str, Record | None]:
        """The records of all cells as they are now, by key; None where a cell has none."""
        return records_of(self.cells, self.runs)

    def finished(self) -> dict[str, Record]:
        """The records of the finished cells, by key."""
        return done_among(self.records())

    def check_workers(self, workers: int | None, *, cells: Sequence[Cell]) -> None:
        """Check that the suite allows so many workers for these cells. Raises: ConfigError."""
        if self.suite.fresh_process and workers not in (None, 1):
            raise ConfigError(
                f"{workers} workers (--workers or GIM_BENCH_WORKERS) for suite "
                f"{self.suite.name!r}, which measures one cell at a time: use --workers 1"
            )
        if workers not in (None, 1) and any(map(has_workers, cells)):
            raise ConfigError(
                f"{workers} workers (--workers or GIM_BENCH_WORKERS) for cells that have processes "
                f'of their own (the schedule "pipeline", or training.processes): use --workers 1'
            )

    def share(self, finished: Mapping[str, Record], *, workers: int | None) -> Share:
        """How the unfinished cells share the cores. Raises: ConfigError."""
        self.check_workers(workers, cells=self.cells)
        waiting = [cell for cell in self.cells if cell.key not in finished]
        return self.share_of(waiting, workers=workers, alone=self.take_turns(waiting))

    def take_turns(self, cells: Sequence[Cell]) -> bool:
        """Whether the cells run one at a time, whatever the cores."""
        return self.suite.fresh_process or any(map(has_workers, cells))

    def share_of(self, cells: Sequence[Cell], *, workers: int | None, alone: bool) -> Share:
        """How these cells share the cores; from now on this process has a worker's threads, too."""
        share = share_out(cells, device=self.bench.device, workers=workers, alone=alone)
        if cells and share.threads > 1 and (idle := idle_cores()) < share.threads:
            self.progress.say(
                f"{idle} of {cores()} cores are idle, and {share.threads} threads wait for each "
                f"other: OMP_NUM_THREADS={max(1, idle)} is faster, with other last digits"
            )
        share.settle()
        return share

    def run(
        self,
        share: Share,
        *,
        records: Mapping[str, Record | None],
        rerun: bool,
        since: datetime | None = None,
    ) -> Iterator[Record]:
        """Yield the record of every cell as soon as it is there.

        `records` are those of now. A cell that ended after `since` is not run again.
        Raises: OSError.
        """
        before = records_before(records, since=since)
        if share.workers == 1:
            run: RunCell = run_apart if self.suite.fresh_process else run_cell
            if self.bench.ranks is not None:
                run = with_all_ranks(run, self.bench.ranks)
            if not self.suite.fresh_process:  # a shared process measures no cell's own memory
                memory.keep_freed_blocks()
            yield from run_table(
                self.cells, self.bench, runs=self.runs, run=run, rerun=rerun, before=before
            )
            return
        folder = self.runs.root / self.suite.name / "workers"
        folder.mkdir(parents=True, exist_ok=True)
        self.progress.say(f"{share}, whose logs are in {folder}")
        with ExitStack() as files:
            logs = [
                Lines(files.enter_context(appended(folder / f"{number + 1}.log")))
                for number in range(share.workers)
            ]
            yield from run_by_workers(
                self.cells,
                self.bench,
                runs=self.runs,
                share=share,
                rerun=rerun,
                before=before,
                logs=logs,
            )


def done_among(records: Mapping[str, Record | None]) -> dict[str, Record]:
    """The records of finished cells, by key."""
    return {
        key: record
        for key, record in records.items()
        if record is not None and record.status is Status.DONE
    }


def workload_of(
    suite: Suite,
    *,
    methods: Sequence[str],
    seeds: int | None,
    device: str,
    data_dir: Path | None,
    runs_dir: Path,
    base: Base | None = None,
    quiet: bool = False,
    ranks: Ranks | None = None,
    tasks_on: str | None = None,
) -> Workload:
    """The cells of `suite` for these methods and the first `seeds` seeds.

    Without methods or seeds the suite's own are used. On a base, the method and the seed of the
    base are used. `ranks` are those that a launcher started; `tasks_on` is the device of the
    tasks of a cluster, which this machine may lack.

    Raises: ConfigError or DataError.
    """
    if base is not None and seeds is not None:
        raise ConfigError(f"--from {base.folder} is of seed {base.record.seed}: leave out --seeds")
    progress = progress_for(quiet=quiet)
    resolved_device = resolve_device(device)
    configured = configs(
        suite,
        methods=methods or ([] if base is None else [base.method]),
        device=torch.device(tasks_on or resolved_device),
        base=base,
        elsewhere=ranks is not None or tasks_on is not None,
    )
    dataset = dataset_of_suite(suite, data_dir=data_dir, progress=progress)
    table = cells(
        suite,
        configured,
        seeds=range(seeds or suite.seeds) if base is None else [base.record.seed],
        data_sha256=dataset.fingerprint(),
        base=base,
    )
    bench = Bench(dataset, device=resolved_device, progress=progress)
    bench.ranks = ranks
    return Workload(
        suite=suite,
        configs=configured,
        cells=table,
        bench=bench,
        runs=RunsFolder(runs_dir),
        base=base,
    )
