"""Jobs of Slurm: arrays whose tasks run the same command, by Slurm's own programs."""

import os
import shlex
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gim_bench.errors import ConfigError, first_line, one_line
from gim_bench.system.atomic import write_atomically

ANSWER_SECONDS = 120.0  # sbatch tries for a minute to reach the controller
LEAD_SECONDS = 120  # from the signal to the time limit
# Exit codes of a worker that requeueing does not help: done, a cell failed, wrong use.
ENDED = (0, 1, 2)

SCRIPT = """\
#!/bin/bash
# A worker: it runs cells that nobody has claimed. `sbatch` gets these options:
#   {options}
cd {folder} || exit
{lines}
requeue=
trap 'requeue=yes; kill -TERM "$worker"' USR1
trap 'kill -TERM "$worker"' TERM
{command} &
worker=$!
while
    wait "$worker"
    code=$?
    kill -0 "$worker" 2>/dev/null
do :; done
# USR1 comes before the time limit: the worker has written its checkpoint, and goes on later.
if [[ $requeue && ! " {ended} " =~ " $code " && ${{SLURM_RESTART_COUNT:-0}} -lt {requeues} ]]; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def worker_script(
    command: Sequence[str],
    *,
    options: Sequence[str],
    setup: Sequence[str],
    requeues: int,
) -> str:
    """The batch script of a task that runs `command` in today's folder, after the lines `setup`."""
    return SCRIPT.format(
        options=" ".join(shlex.quote(option) for option in options),
        folder=shlex.quote(str(Path.cwd())),
        lines="\n".join(setup),
        command=shlex.join(command),
        ended=" ".join(map(str, ENDED)),
        requeues=requeues,
    )


def signal_before_limit(minutes: int | None) -> str:
    """The value of sbatch's --signal that sends USR1 to the script before the time limit.

    Slurm may send a signal up to 60 seconds earlier, so a short limit has a short lead.
    Source: `man sbatch`.
    """
    lead = LEAD_SECONDS if minutes is None else min(LEAD_SECONDS, minutes * 60 // 12)
    return f"B:USR1@{lead}"


def submit(script: str, *, options: Sequence[str], environment: Mapping[str, str]) -> str:
    """Submit a batch script; returns the number of the job. Raises: ConfigError."""
    answer = _ask(["sbatch", "--parsable", *options], given=script, environment=environment)
    return answer.strip().partition(";")[0]  # the name of the cluster may follow


def keep_script(script: str, *, folder: Path, job: str) -> None:
    """Keep the script of a job, by which the job is found again. Raises: OSError."""
    write_atomically(folder / f"{job}.sh", script.encode())


def submitted(folder: Path) -> list[str]:
    """The jobs whose scripts are kept in the folder, in the order of their numbers."""
    return sorted((path.stem for path in folder.glob("*.sh") if path.stem.isdecimal()), key=int)


def states(jobs: Sequence[str], *, name: str) -> dict[str, Counter[str]]:
    """How many tasks of each job are in which state; only jobs that are still queued or running.

    Jobs have this `name`: another cluster may have given their numbers to others.
    Raises: ConfigError.
    """
    found: dict[str, Counter[str]] = {}
    lines = _ask(["squeue", "--me", "--noheader", "--array", "--format=%F %T %j"]).splitlines()
    for job, state, theirs in (line.split(maxsplit=2) for line in lines):
        if job in jobs and theirs.strip() == name:
            found.setdefault(job, Counter())[state.lower()] += 1
    return found


def cancel(job: str) -> None:
    """End all tasks of a job; they have Slurm's KillWait for their checkpoints.

    Raises: ConfigError.
    """
    _ask(["scancel", job])


def _ask(
    command: Sequence[str], *, given: str = "", environment: Mapping[str, str] | None = None
) -> str:
    """What a program of Slurm answers. Raises: ConfigError if it is not there, or refuses."""
    program = command[0]
    try:
        answer = subprocess.run(  # noqa: S603 - without a shell
            command,
            input=given,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {program} on this machine: use a login node of the Slurm cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"Slurm has not answered {program} for {ANSWER_SECONDS:.0f} s: is its controller up?"
        ) from None
    except OSError as error:
        raise ConfigError(f"{program} cannot be run ({first_line(error)})") from None
    if answer.returncode:
        said = [line for line in answer.stderr.splitlines() if line.strip()]
        reason = "; ".join(said[:2]) or f"exit code {answer.returncode}"
        raise ConfigError(
            f"Slurm refuses ({one_line(reason)}): correct the file of --launcher-options"
            if program == "sbatch"
            else f"Slurm refuses {program} ({one_line(reason)})"
        )
    return answer.stdout
