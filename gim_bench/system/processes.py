"""Which process has taken something on, and whether it is still there."""

import socket
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

CLOCK_SECONDS = 2  # by which a process seems to have started earlier or later when clocks are set


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, told from any other that has or had its number."""

    host: str
    machine: str  # host, its boot and its namespace of processes: a container's are its own
    pid: int
    started: float  # seconds since the epoch

    @classmethod
    def here(cls) -> "Owner":
        """This very process."""
        process = psutil.Process()
        return cls(
            host=socket.gethostname(),
            machine=_machine(),
            pid=process.pid,
            started=process.create_time(),
        )

    @classmethod
    def read(cls, table: Any) -> "Owner | None":
        """What `as_dict` gave; None of anything else."""
        try:
            found = cls(
                host=str(table["host"]),
                machine=str(table["machine"]),
                pid=int(table["pid"]),
                started=float(table["started"]),
            )
        except (TypeError, KeyError, ValueError, OverflowError):
            return None
        return found

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def is_gone(self) -> bool | None:
        """Whether the process has ended; None where that cannot be seen: on another machine."""
        if self.machine != _machine():
            return None
        try:
            process = psutil.Process(self.pid)
            started, status = process.create_time(), process.status()
        except (psutil.NoSuchProcess, ValueError, OverflowError):
            return True
        # A zombie is dead, though its parent has not asked for its exit status.
        return status == psutil.STATUS_ZOMBIE or abs(started - self.started) > CLOCK_SECONDS


@cache
def _machine() -> str:
    """Within one, numbers of processes mean the same."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        pass  # not Linux: the host has to do
    return " ".join(parts)
