"""Identity of a process across hosts and containers, and whether the process is alive."""

import os
import socket
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

CLOCK_SECONDS = 2  # tolerance of a start time in seconds, which shifts when the clock is set


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, distinguished from every other process with the same number."""

    host: str
    machine: str  # host, boot and process namespace (each container has its own namespace)
    pid: int
    started: float  # seconds since the epoch, by a clock that may be set
    ticks: int | None = None  # clock ticks from the boot to the start; None outside Linux

    @classmethod
    def here(cls) -> "Owner":
        """The current process."""
        process = psutil.Process()
        return cls(
            host=socket.gethostname(),
            machine=_machine(),
            pid=process.pid,
            started=process.create_time(),
            ticks=_ticks(process.pid),
        )

    @classmethod
    def read(cls, table: Any) -> "Owner | None":
        """The owner that `as_dict` described; None if `table` is anything else."""
        try:
            return cls(
                host=str(table["host"]),
                machine=str(table["machine"]),
                pid=int(table["pid"]),
                started=float(table["started"]),
                ticks=None if (ticks := table.get("ticks")) is None else int(ticks),
            )
        except (TypeError, KeyError, ValueError, OverflowError):
            return None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def is_gone(self) -> bool | None:
        """Whether the process has ended; None if it cannot be seen: on another machine, or hidden.

        /proc mounted with `hidepid` hides the processes of other users.
        """
        if self.machine != _machine():
            return None
        try:
            process = psutil.Process(self.pid)
            started, status = process.create_time(), process.status()
        except psutil.Error:
            return None if _is_there(self.pid) else True
        except (ValueError, OverflowError):
            return True
        if status == psutil.STATUS_ZOMBIE:  # ended; its parent has not read its exit status yet
            return True
        if self.ticks is not None and (ticks := _ticks(self.pid)) is not None:
            return ticks != self.ticks
        return abs(started - self.started) > CLOCK_SECONDS


def _is_there(pid: int) -> bool:
    """Whether the system knows a process of that number, in /proc or not."""
    if pid <= 0:  # a damaged record; to `kill` it stands for a group of processes
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return True


def _ticks(pid: int) -> int | None:
    """The start of a process in clock ticks since the boot; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[19])  # field 22 of man 5 proc_pid_stat; the name ends with field 2
    except (OSError, ValueError, IndexError):
        return None


@cache
def _machine() -> str:
    """Name of the space in which a process number identifies one process."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        pass  # not Linux: the host name must suffice
    return " ".join(parts)
