"""Workers as tasks of a Ray cluster: the command stays until they have run all cells."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gim_bench.errors import ConfigError

if TYPE_CHECKING:
    from gim_bench.cells.launch import Resources
    from gim_bench.cli.launch import Cluster
    from gim_bench.cli.workload import Workload
    from gim_bench.settings.launchers import RayOptions
    from gim_bench.tracking import Tracker

REST = 10  # times as long as a count of the records took, it is not repeated


def cores_of(cluster: "Cluster") -> int | None:
    """All cores of a cluster that is this machine alone; None of another cluster.

    Raises: ConfigError if this machine has fewer GPUs than a task needs: Ray would wait for more.
    """
    import torch

    from gim_bench.hardware.threads import cores
    from gim_bench.settings.launchers import RayOptions

    if not isinstance(cluster.options, RayOptions) or cluster.options.address is not None:
        return None
    if cluster.gpus > (there := torch.cuda.device_count()):
        raise ConfigError(
            f"a worker asks for {cluster.gpus} GPU(s), and this machine has {there}: lower gpus in "
            f"the launcher options, use --device cpu, or give the address of a Ray cluster"
        )
    return cores()


def run_on_ray(
    work: "Workload",
    options: "RayOptions",
    each: "Resources",
    command: Sequence[str],
    described: str,
    *,
    waiting: int,
    left: Callable[[], int],
    tracker: "Tracker | None",
) -> None:
    """Run `command` in tasks until no task is left; `left` counts the `waiting` cells down.

    Raises: ConfigError, and KeyboardInterrupt after all commands have ended.
    """
    from gim_bench.system import ray_tasks

    work.runs.check_writable()
    folder = (work.runs.root / work.suite.name / "ray").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    store = {} if tracker is None else {"MLFLOW_TRACKING_URI": tracker.uri}
    tasks = [
        ray_tasks.Task(
            command=command,
            folder=Path.cwd(),
            environment={"OMP_NUM_THREADS": str(each.threads), **store},
            log=folder / f"{number + 1}.log",
            cpus=each.cpus,
            gpus=each.gpus,
            memory_bytes=None if each.memory_gib is None else each.memory_gib * 2**30,
            retries=options.requeues,
        )
        for number in range(each.tasks)
    ]
    with ray_tasks.cluster(options.address) as where:
        work.progress.say(f"{where}: {described}; logs are in {folder}")
        with work.progress.task("cells", total=waiting, unit="cell") as task:
            rested = time.monotonic()
            for line in ray_tasks.run(tasks):
                if line:
                    work.progress.say(line)
                began = time.monotonic()
                if began >= rested:
                    now = min(waiting, left())
                    task.advance(waiting - now)
                    waiting = now
                    ended = time.monotonic()
                    rested = ended + REST * (ended - began)
            task.advance(waiting - min(waiting, left()))
