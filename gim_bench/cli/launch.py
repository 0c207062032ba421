"""Workers on a cluster: `--launcher slurm` submits them, `--launcher ray` sees them through."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gim_bench.errors import ConfigError, unknown_name
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import (
    Origin,
    ended_after,
    latest_attempts,
    newest_done,
    origin_of,
)
from gim_bench.settings.base import Precision
from gim_bench.system.slurm import signal_before_limit
from gim_bench.system.streams import show

if TYPE_CHECKING:
    from gim_bench.cells.launch import Resources
    from gim_bench.cli.workload import Workload
    from gim_bench.settings.launchers import LauncherOptions, SlurmOptions
    from gim_bench.tracking import Tracker

LAUNCHERS = ("local", "slurm", "ray")
# Options of `run` that a worker gets otherwise, or not at all. The address of a store may hold a
# password, so it stands in the environment and in no file.
VALUES_KEPT_BACK = {
    "--device", "--launcher", "--launcher-options", "--since", "--tracking-uri", "--workers",
}  # fmt: skip
FLAGS_KEPT_BACK = {"--json", "--plan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the command line asks of a launch."""

    suite: str  # as it was typed
    workers: int | None
    since: datetime | None
    rerun: bool
    plan: bool

    def is_over(self, record: Record) -> bool:
        """Whether workers leave the record's cell as it is: done, or ended after `since`."""
        is_done = record.status is Status.DONE and not self.rerun
        return is_done or ended_after(record, self.since)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster of Slurm or Ray, and the GPUs of each worker there."""

    options: "LauncherOptions"
    gpus: int

    @property
    def is_slurm(self) -> bool:
        """Whether jobs are submitted; tasks of Ray last as long as the command."""
        from gim_bench.settings.launchers import SlurmOptions

        return isinstance(self.options, SlurmOptions)

    @property
    def device(self) -> str:
        """The device of a worker."""
        return "cuda" if self.gpus else "cpu"

    @property
    def device_here(self) -> str:
        """The device on which this machine plans: a login node may have no GPU."""
        import torch

        return self.device if torch.cuda.is_available() else "cpu"


def cluster_of(launcher: str, *, file: Path | None, device: str) -> Cluster | None:
    """The cluster of a launcher; None for processes on this machine. Raises: ConfigError."""
    import torch

    from gim_bench.settings.launchers import RayOptions, SlurmOptions, read_options

    if launcher not in LAUNCHERS:
        raise ConfigError(unknown_name("launcher", launcher, known=LAUNCHERS, where="--launcher"))
    if launcher == "local":
        if file is not None:
            raise ConfigError(
                f"--launcher-options {file} has no reader: add --launcher slurm or ray"
            )
        return None
    options: LauncherOptions = read_options(
        file, SlurmOptions if launcher == "slurm" else RayOptions
    )
    asks = device.startswith("cuda")
    if options.gpus is None:
        seen = device == "auto" and torch.cuda.is_available()
        return Cluster(options=options, gpus=int(asks or seen))
    if (asks and not options.gpus) or (device == "cpu" and options.gpus):
        raise ConfigError(
            f"the launcher options have gpus = {options.gpus}, and --device is {device}: leave out "
            f"one of them"
        )
    return Cluster(options=options, gpus=options.gpus)


def launch(work: "Workload", cluster: Cluster, *, asked: Launch, tracker: "Tracker | None") -> None:
    """Have workers run the unfinished cells; with `asked.plan`, only print what they would run.

    Jobs of Slurm are submitted, tasks of Ray are seen through. Workers run no cell that ends after
    `asked.since` again, however often they begin. Raises: ConfigError.
    """
    from gim_bench.cells.launch import costs_of, resources
    from gim_bench.cli.launch_ray import cores_of, run_on_ray
    from gim_bench.settings.launchers import RayOptions, SlurmOptions

    work.check_workers(asked.workers, cells=())  # a task runs cells with processes in turn
    ended = [record for record in records_on(work, cluster) if asked.is_over(record)]
    over = {(record.method, record.seed) for record in ended}
    options = cluster.options
    waiting = [cell for cell in work.cells if (cell.config.method.name, cell.seed) not in over]
    if not waiting:
        if cluster.is_slurm:
            report = _command("report", asked.suite, work.runs.root)
            failed = sum(record.status is not Status.DONE for record in ended)
            are = f"have ended, {failed} of them without a result" if failed else "are done"
            show(f"all {len(work.cells)} cells {are}: {report}")
        return
    is_timed = work.bench.device.type == cluster.device
    is_silent = isinstance(options, SlurmOptions) and None in (options.minutes, options.memory_gib)
    each = resources(
        waiting,
        options,
        gpus=cluster.gpus,
        tasks=asked.workers,
        cores=cores_of(cluster),
        costs=costs_of(waiting, work.bench) if is_silent and is_timed else None,
        alone=work.suite.fresh_process,
    )
    if is_silent and not is_timed:
        work.progress.say(
            "this machine has no GPU to plan on: tasks get the time and memory that are the "
            "cluster's defaults, unless the launcher options have minutes and memory_gib"
        )
    _warn_of_precision(work, options)
    assert asked.since is not None
    command = _worker_command(cluster, since=asked.since, cells_at_once=each.cells_at_once)
    described = f"{each}; {len(waiting)} of {len(work.cells)} cells are to be run"
    if isinstance(options, SlurmOptions):
        _run_on_slurm(work, options, each, command, described, asked=asked, tracker=tracker)
    elif asked.plan:
        show(f"{shlex.join(command)}\n{described}")
    else:
        assert isinstance(options, RayOptions)
        run_on_ray(
            work,
            options,
            each,
            command,
            described,
            waiting=len(waiting),
            left=lambda: left_of(work, cluster, asked=asked),
            tracker=tracker,
        )


def _warn_of_precision(work: "Workload", options: "LauncherOptions") -> None:
    """Say that nodes of a cluster may decide the precision differently."""
    alike = getattr(options, "constraint", None)
    if work.suite.training.precision is Precision.AUTO and alike is None:
        work.progress.say(
            'training.precision is "auto", which each node decides: where nodes differ, keep them '
            "alike by `constraint` in the launcher options of Slurm, or set the precision"
        )


def _run_on_slurm(
    work: "Workload",
    options: "SlurmOptions",
    each: "Resources",
    command: Sequence[str],
    described: str,
    *,
    asked: Launch,
    tracker: "Tracker | None",
) -> None:
    """Submit an array of workers, or print their script. Raises: ConfigError."""
    from gim_bench.system import slurm

    folder = (work.runs.root / work.suite.name / "slurm").resolve()
    of_sbatch = _sbatch_options(each, options, name=job_name(work.suite.name), folder=folder)
    script = slurm.worker_script(
        command,
        options=of_sbatch,
        setup=[f"export OMP_NUM_THREADS={each.threads}", *options.setup],
        requeues=options.requeues,
    )
    if asked.plan:
        show(f"{script}\n{described}")
        return
    job = _submit(script, options=of_sbatch, folder=folder, work=work, tracker=tracker)
    show(f"Slurm job {job}: {described}")
    show(f"Logs: {folder}/{job}_*.log")
    show(f"How far they are: {_command('status', asked.suite, work.runs.root)}")


def _command(name: str, suite: str, runs_dir: Path) -> str:
    words = ["python", "-m", "gim_bench", name, "--suite", suite, "--runs-dir", str(runs_dir)]
    return shlex.join(words)


def _submit(
    script: str,
    *,
    options: Sequence[str],
    folder: Path,
    work: "Workload",
    tracker: "Tracker | None",
) -> str:
    """Submit the script and keep it; returns the job's number. Raises: ConfigError or OSError."""
    from gim_bench.system import slurm

    work.runs.check_writable()
    folder.mkdir(parents=True, exist_ok=True)
    store = {} if tracker is None else {"MLFLOW_TRACKING_URI": tracker.uri}
    job = slurm.submit(script, options=options, environment=store)
    slurm.keep_script(script, folder=folder, job=job)
    return job


def _sbatch_options(
    asked: "Resources", options: "SlurmOptions", *, name: str, folder: Path
) -> list[str]:
    """All options of sbatch; those that the user wrote out come last and win."""
    gpu = f"gpu:{options.gpu_type}:{asked.gpus}" if options.gpu_type else f"gpu:{asked.gpus}"
    named = {
        "array": f"0-{asked.tasks - 1}",
        "job-name": name,
        "output": f"{str(folder).replace('%', '%%')}/%A_%a.log",
        "open-mode": "append",
        "export": "ALL",
        "signal": signal_before_limit(asked.minutes),
        "time": asked.minutes,
        "mem": None if asked.memory_gib is None else f"{asked.memory_gib}G",
        "cpus-per-task": asked.cpus,
        "gres": gpu if asked.gpus else None,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
    }
    given = [f"--{name}={value}" for name, value in named.items() if value is not None]
    return ["--requeue", *given, *options.sbatch]


def job_name(suite: str) -> str:
    """The name of the suite's jobs in Slurm."""
    return f"gim_bench:{suite}"


def records_on(work: "Workload", cluster: Cluster) -> list[Record]:
    """The cells' records of the cluster's device, in the cells' order.

    Without a GPU here, the precision that a suite leaves to the GPU is not known. Then records of
    either precision count: of each cell the newest that is done, or else the latest attempt.
    """
    from gim_bench import RESULTS_VERSION
    from gim_bench.cells.resolve import describer

    if work.bench.device.type == cluster.device:
        return [record for record in work.records().values() if record is not None]
    origin = Origin(data_sha256=work.cells[0].data_sha256, results_version=RESULTS_VERSION)
    described = describer(work.suite)
    records = [
        record
        for record in work.runs.records(work.suite.name)
        if record.config.get("device") == cluster.device
        and origin_of(record) == origin
        and described(record.config)
    ]
    chosen = {(r.method, r.seed): r for r in [*latest_attempts(records), *newest_done(records)]}
    cells = [(cell.config.method.name, cell.seed) for cell in work.cells]
    return [chosen[cell] for cell in cells if cell in chosen]


def left_of(work: "Workload", cluster: Cluster, *, asked: Launch) -> int:
    """The number of cells that the workers of a launch have not run to their end."""
    return len(work.cells) - sum(map(asked.is_over, records_on(work, cluster)))


def _worker_command(cluster: Cluster, *, since: datetime, cells_at_once: int) -> list[str]:
    """What a worker runs: the command that was typed, without the launcher."""
    kept = []
    typed = iter(sys.argv[1:])
    for word in typed:
        name, equals, _ = word.partition("=")
        if name in VALUES_KEPT_BACK:
            _ = equals or next(typed)
        elif name not in FLAGS_KEPT_BACK:
            kept.append(word)
    others = ["--device", cluster.device, "--workers", str(cells_at_once)]
    return [sys.executable, "-m", "gim_bench", *kept, *others, "--since", since.isoformat()]
