"""The file of `--launcher-options` for Slurm: what a task of the array asks for."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gim_bench.settings.base import NotNegative, PositiveInt, Settings
from gim_bench.settings.suites import parse
from gim_bench.texts import read_toml

Line = Annotated[str, Field(pattern=r"^[^\n]+$")]
FurtherOption = Annotated[str, Field(pattern=r"^-[^\n]+$")]


class SlurmOptions(Settings):
    """Resources and the environment of each task; the plan fills in what is left out."""

    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    constraint: Line | None = None
    minutes: PositiveInt | None = None  # time limit of a task, which is requeued at the limit
    memory_gib: PositiveInt | None = None
    cpus: PositiveInt | None = None
    gpus: NotNegative | None = None
    gpu_type: Line | None = None  # as in --gres=gpu:<type>:<gpus>
    cells_at_once: PositiveInt | None = None  # beside each other in a task
    requeues: NotNegative = 100  # of one task, at most
    setup: tuple[Line, ...] = ()  # lines of bash before the command, such as "module load cuda"
    sbatch: tuple[FurtherOption, ...] = ()  # further options of sbatch, which win over ours


def read_slurm_options(path: Path | None) -> SlurmOptions:
    """The options in a TOML file; without a file, all are left out. Raises: ConfigError."""
    if path is None:
        return SlurmOptions()
    return parse(SlurmOptions, read_toml(path, noun="launcher options"), origin=path.name)
