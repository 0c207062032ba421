"""Cores that this process may use, and threads that serve it. Nothing here imports PyTorch."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

VARIABLE = "OMP_NUM_THREADS"
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
LOOK_SECONDS = 0.2  # at the load of the cores
# Limit, usage and idle file cache of a control group, in version 2 and 1. The system drops such a
# cache when a program needs the memory.
MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def cores() -> int:
    """The cores that the affinity and the CPU quota of this process leave it, at least one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = cpu_quota()
    return max(1, math.floor(min(affinity or 1, math.inf if quota is None else quota)))


def idle_cores() -> int:
    """The cores among `cores()` that nobody uses at this moment."""
    of_each = psutil.cpu_percent(interval=LOOK_SECONDS, percpu=True)
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(of_each))
    busy = sum(percent for core, percent in enumerate(of_each) if core in ours) / 100
    return max(0, min(cores(), round(len(ours) - busy)))


def available_bytes(*, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Memory that this process may still take, by the machine and by its control groups."""
    room = [psutil.virtual_memory().available]
    for folder in _groups("memory", cgroups=cgroups, membership=membership):
        for limit, usage, cache in MEMORY_FILES:
            with suppress(OSError, ValueError):  # "max" where nothing is set
                limited = int((folder / limit).read_text())
                used = int((folder / usage).read_text()) - _statistic(folder, cache)
                room.append(max(0, limited - used))
    return min(room)


def threads_asked_for() -> int | None:
    """The number in OMP_NUM_THREADS; None without a number, as in OpenMP."""
    text = os.environ.get(VARIABLE, "").partition(",")[0].strip()
    return int(text) if text.isdecimal() and int(text) > 0 else None


@contextmanager
def asking_for(threads: int) -> Iterator[None]:
    """Within the block, started processes compute with so many threads, in every library."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def cpu_quota(*, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """The tightest CPU quota over this process's control groups, in cores; None without a quota.

    A group inherits the quotas of all groups above.
    """
    groups = _groups("cpu", cgroups=cgroups, membership=membership)
    found = (read(folder) for folder in groups for read in (_quota_v2, _quota_v1))
    return min((quota for quota in found if quota is not None), default=None)


def _groups(controller: str, *, cgroups: Path, membership: Path) -> Iterator[Path]:
    """Folders of this process's control groups that may limit it, in both versions of groups.

    `membership` says in which group of each hierarchy below `cgroups` the process is. A container
    may see its own group as the top, under a path of the host.
    """
    try:
        lines = os.fsdecode(membership.read_bytes()).splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        names = {controllers, controller} if controllers else {""}
        for top in (cgroups / name for name in sorted(names)):
            group = top / path.lstrip("/")
            yield top
            yield from (each for each in (group, *group.parents) if top in each.parents)


def _statistic(group: Path, name: str) -> int:
    """An entry of a control group's memory.stat, in bytes; 0 where the file or the entry lacks."""
    with suppress(OSError, ValueError):
        for line in (group / "memory.stat").read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.removeprefix(name))
    return 0


def _quota_v2(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max" where nothing is set
        return None


def _quota_v1(group: Path) -> float | None:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        period = int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
