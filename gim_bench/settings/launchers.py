"""The file of `--launcher-options`: what each worker on a cluster asks for."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from gim_bench.settings.base import NotNegative, PositiveInt, Settings
from gim_bench.settings.suites import parse
from gim_bench.texts import read_toml

Line = Annotated[str, Field(pattern=r"^[^\n]+$")]
FurtherOption = Annotated[str, Field(pattern=r"^-[^\n]+$")]


class LauncherOptions(Settings):
    """Resources of each worker; the plan fills in what is left out."""

    memory_gib: PositiveInt | None = None
    cpus: PositiveInt | None = None
    gpus: NotNegative | None = None
    cells_at_once: PositiveInt | None = None  # beside each other in a worker
    requeues: NotNegative = 100  # of one worker, at most


class SlurmOptions(LauncherOptions):
    """Resources and the environment of each task of an array."""

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    minutes: PositiveInt | None = None  # time limit of a task, which is requeued at the limit
    gpu_type: Line | None = None  # as in --gres=gpu:<type>:<gpus>
    setup: tuple[Line, ...] = ()  # lines of bash before the command, such as "module load cuda"
    sbatch: tuple[FurtherOption, ...] = ()  # further options of sbatch, which win over ours


class RayOptions(LauncherOptions):
    """The Ray cluster, and the resources of each of its tasks."""

    # "host:port" of a cluster's head, or "auto", the cluster that this machine belongs to. None: a
    # cluster of this machine alone, which lasts as long as the command.
    address: Line | None = None


Options = TypeVar("Options", bound=LauncherOptions)


def read_options(path: Path | None, kind: type[Options]) -> Options:
    """The options in a TOML file; without a file, all are left out. Raises: ConfigError."""
    if path is None:
        return kind()
    return parse(kind, read_toml(path, noun="launcher options"), origin=path.name)
