"""What an array of workers on a cluster asks for, by the plan of the cells that are to be run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.data_parallel import processes_of
from gim_bench.cells.estimate import estimate
from gim_bench.cells.pipelines import has_workers, processes_beside, workers_of
from gim_bench.cells.shares import all_small
from gim_bench.errors import ConfigError
from gim_bench.hardware.threads import threads_asked_for
from gim_bench.settings.launchers import LauncherOptions, SlurmOptions
from gim_bench.settings.schema import CellConfig

MOST_TASKS = 16  # unless more are asked for
SMALL_AT_ONCE = 4  # small cells beside each other on a GPU, which one of them does not fill
CPUS = 4  # of a cell that is not small
START_SECONDS = 300  # for imports, data, and the wait for cells of others
SLACK = 2.0  # of times: nodes differ, and the plan has timed a few steps
ROUND_MINUTES = 10
LONGEST_MINUTES = 24 * 60  # requeueing does the rest
MEMORY_SLACK = 1.5
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The tasks of an array, and what each asks for; None: the cluster's default."""

    tasks: int
    cells_at_once: int  # in each task
    threads: int  # of each cell
    cpus: int
    gpus: int
    minutes: int | None
    memory_gib: int | None

    def __str__(self) -> str:
        each = [
            f"{self.cells_at_once} cell(s) at once",
            f"{self.cpus} CPU(s)",
            f"{self.gpus} GPU(s)" if self.gpus else "",
            f"{self.minutes} min" if self.minutes else "",
            f"{self.memory_gib} GiB" if self.memory_gib else "",
        ]
        return f"{self.tasks} worker(s), each {', '.join(part for part in each if part)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The plan's estimate of the cells that are to be run."""

    seconds: float  # of all cells, one after another
    longest_seconds: float  # of one cell
    memory_bytes: int  # of all processes that run a cell, without a GPU's memory


def costs_of(waiting: Sequence[Cell], bench: Bench) -> Costs:
    """The costs of the cells on this machine. Seeds of a method cost the same, so one is timed.

    Raises: ConfigError.
    """
    found = {}
    memory = 0
    for cell in waiting:
        name = cell.config.method.name
        if name not in found:
            found[name] = estimate(cell, bench)
            peak = found[name].peak_bytes if bench.device.type == "cpu" else None
            memory = max(memory, _memory_of(cell.config, peak or 0))
    seconds = [found[cell.config.method.name].seconds for cell in waiting]
    return Costs(seconds=sum(seconds), longest_seconds=max(seconds), memory_bytes=memory)


def _memory_of(config: CellConfig, peak: int) -> int:
    """Bytes of all processes of a cell, where one process that has all of it peaks at `peak`.

    The workers of a pipeline share the units of the method out; other processes have all of them.
    """
    here = psutil.Process().memory_info().rss
    whole = max(peak, here)
    if workers := workers_of(config):
        return whole + workers * here
    return whole * (1 + processes_of(config))


def resources(
    waiting: Sequence[Cell],
    options: LauncherOptions,
    *,
    gpus: int,
    tasks: int | None,
    cores: int | None,
    costs: Costs | None,
    alone: bool,
) -> Resources:
    """What to ask for: the options, and where they are silent the plan.

    Without `costs`, time and memory are the cluster's defaults. With `alone`, one cell runs at a
    time. Numbers of a cell may depend on its threads, so on a cluster these depend on nothing but
    its size; where the cluster is one machine, `cores` are all that it has.

    Raises: ConfigError if a task would have too few GPUs for the processes of a cell.
    """
    _check_gpus(waiting, gpus=gpus)
    small = all_small(waiting)
    at_once = options.cells_at_once or (SMALL_AT_ONCE if small and gpus else max(1, gpus))
    at_once = 1 if alone or any(map(has_workers, waiting)) else min(at_once, len(waiting))
    most = 1 if alone else math.ceil(len(waiting) / at_once)
    tasks = min(tasks or cores or MOST_TASKS, most)
    processes = max(processes_beside(cell.config) for cell in waiting)
    cpus = options.cpus or (
        max(at_once, processes) if small else max(CPUS * max(1, gpus), processes)
    )
    cpus = min(cpus, cores or cpus)
    threads = threads_asked_for() or (1 if small else max(1, cpus // at_once))
    minutes, memory = None, options.memory_gib
    if isinstance(options, SlurmOptions):
        minutes = options.minutes
    if costs is not None:
        each = max(costs.longest_seconds, costs.seconds / (tasks * at_once))
        if not (gpus and any(cell.config.capacity for cell in waiting)):  # a search takes longer
            minutes = minutes or _minutes(SLACK * each + START_SECONDS)
        memory = memory or math.ceil(1 + MEMORY_SLACK * at_once * costs.memory_bytes / GIB)
    return Resources(
        tasks=tasks,
        cells_at_once=at_once,
        threads=threads,
        cpus=cpus,
        gpus=gpus,
        minutes=minutes,
        memory_gib=memory,
    )


def _check_gpus(waiting: Sequence[Cell], *, gpus: int) -> None:
    """On GPUs, each process that shares a batch has one of its own. Raises: ConfigError."""
    processes = max(processes_of(cell.config) for cell in waiting)
    if 0 < gpus < processes:
        raise ConfigError(
            f"training.processes = {processes} needs a GPU for each process, and a task has "
            f"{gpus}: write gpus = {processes} into the file of --launcher-options"
        )


def _minutes(seconds: float) -> int:
    """A time limit, which a queue prefers round."""
    return min(LONGEST_MINUTES, ROUND_MINUTES * math.ceil(seconds / 60 / ROUND_MINUTES))
