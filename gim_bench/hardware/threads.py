"""Cores that this process may use, and threads that serve it. Nothing here imports PyTorch."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

VARIABLE = "OMP_NUM_THREADS"
CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
LOOK_SECONDS = 0.2  # at the load of the cores


def cores() -> int:
    """The cores that the affinity and the CPU quota of this process leave it, at least one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = cpu_quota()
    return max(1, math.floor(min(affinity or 1, math.inf if quota is None else quota)))


def idle_cores() -> int:
    """The cores among `cores()` that nobody uses at this moment, at least one."""
    everybody = os.cpu_count() or 1
    busy = psutil.cpu_percent(interval=LOOK_SECONDS) / 100 * everybody
    return max(1, min(cores(), round(everybody - busy)))


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

    `membership` says in which group of each hierarchy below `cgroups` the process is. Both versions
    of control groups are read. A group inherits the quotas of all groups above.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return None
    found: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = cgroups / controllers
        group = top / path.lstrip("/")
        # A container may see its own group as the top, under a path of the host.
        for folder in (top, *(each for each in (group, *group.parents) if top in each.parents)):
            found += [quota for read in (_quota_v2, _quota_v1) if (quota := read(folder))]
    return min(found, default=None)


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
