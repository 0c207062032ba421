"""Cores that a process may use."""

import os

import pytest

from gim_bench.hardware import threads
from gim_bench.hardware.threads import (
    asking_for,
    available_bytes,
    cores,
    cpu_quota,
    idle_cores,
    threads_asked_for,
)

VERSION_2 = "0::{}\n"
VERSION_1 = "3:cpuset:/\n2:cpu,cpuacct:{}\n1:memory:/elsewhere\n"


@pytest.fixture
def groups(tmp_path):
    """A made-up hierarchy of control groups: `membership` and the folder of each group."""

    class Groups:
        top = tmp_path / "cgroup"
        membership = tmp_path / "membership"

        def belong(self, text):
            self.membership.write_text(text)

        def write(self, path, **files):
            folder = self.top / path
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name.replace("_", ".", 1)).write_text(text)

        def quota(self):
            return cpu_quota(cgroups=self.top, membership=self.membership)

        def memory(self):
            return available_bytes(cgroups=self.top, membership=self.membership)

    return Groups()


def test_a_quota_of_version_2_is_in_cores(groups):
    groups.belong(VERSION_2.format("/job"))
    groups.write("job", cpu_max="150000 100000\n")
    assert groups.quota() == 1.5


def test_max_is_no_quota(groups):
    groups.belong(VERSION_2.format("/job"))
    groups.write("job", cpu_max="max 100000\n")
    assert groups.quota() is None


def test_the_tightest_quota_of_the_groups_above_counts(groups):
    groups.belong(VERSION_2.format("/slice/job"))
    groups.write("slice", cpu_max="100000 100000\n")
    groups.write("slice/job", cpu_max="400000 100000\n")
    assert groups.quota() == 1.0


def test_a_container_that_sees_its_own_group_as_the_top_is_told_its_quota(groups):
    groups.belong(VERSION_2.format("/docker/0123abcd"))
    groups.write("", cpu_max="200000 100000\n")
    assert groups.quota() == 2.0


def test_a_quota_of_version_1_is_in_cores(groups):
    groups.belong(VERSION_1.format("/job"))
    groups.write("cpu,cpuacct/job", cpu_cfs_quota_us="50000\n", cpu_cfs_period_us="100000\n")
    assert groups.quota() == 0.5


def test_a_negative_quota_of_version_1_is_none(groups):
    groups.belong(VERSION_1.format("/job"))
    groups.write("cpu,cpuacct/job", cpu_cfs_quota_us="-1\n", cpu_cfs_period_us="100000\n")
    assert groups.quota() is None


def test_quotas_of_other_controllers_are_not_read(groups):
    groups.belong("1:memory:/job\n")
    groups.write("memory/job", cpu_max="100000 100000\n")
    assert groups.quota() is None


def test_a_system_without_control_groups_has_no_quota(groups):
    assert groups.quota() is None


@pytest.mark.parametrize(
    ("affinity", "quota", "expected"),
    [({0, 1, 2, 3}, None, 4), ({0, 1, 2, 3}, 2.5, 2), ({0, 1}, 8.0, 2), ({0, 1}, 0.5, 1)],
)
def test_cores_are_those_of_affinity_and_quota_and_at_least_one(
    affinity, quota, expected, monkeypatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: affinity, raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: quota)
    assert cores() == expected


@pytest.mark.parametrize(
    ("percents", "expected"),
    [((0, 0, 0, 0), 2), ((90, 10, 0, 0), 1), ((100, 100, 0, 0), 0), ((0, 0, 100, 100), 2)],
)
def test_cores_that_others_use_are_not_idle(percents, expected, monkeypatch):
    """Of four cores, the first two may be used."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(threads.psutil, "cpu_percent", lambda interval, percpu: list(percents))
    assert idle_cores() == expected


def test_memory_is_what_the_machine_and_the_control_group_leave(groups, monkeypatch):
    free = threads.psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(threads.psutil, "virtual_memory", lambda: free)
    groups.belong(VERSION_2.format("/job"))
    assert groups.memory() == 1000
    groups.write("job", memory_max="700\n", memory_current="300\n")
    assert groups.memory() == 400
    groups.write("job", memory_max="max\n")
    assert groups.memory() == 1000


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        (
            VERSION_2.format("/job"),
            {"memory_max": "700\n", "memory_current": "600\n",
             "memory_stat": "anon 90\ninactive_file 450\nactive_file 60\n"},
        ),
        (
            "1:memory:/job\n",
            {"memory_limit_in_bytes": "700\n", "memory_usage_in_bytes": "600\n",
             "memory_stat": "inactive_file 10\ntotal_inactive_file 450\n"},
        ),
    ],
)  # fmt: skip
def test_file_cache_that_nobody_reads_counts_as_free_memory(membership, files, groups, monkeypatch):
    free = threads.psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(threads.psutil, "virtual_memory", lambda: free)
    groups.belong(membership)
    groups.write("job" if membership.startswith("0") else "memory/job", **files)
    assert groups.memory() == 550


def test_lines_that_say_nothing_and_names_in_another_order_are_passed_over(groups):
    groups.belong("nonsense\n\n4:cpuacct,cpu:/job\n")
    groups.write("cpu/job", cpu_cfs_quota_us="50000\n", cpu_cfs_period_us="100000\n")
    assert groups.quota() == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", 3), (" 2 ", 2), ("4,2", 4), ("", None), ("0", None), ("-1", None), ("many", None)],
)
def test_a_number_of_threads_is_read_as_openmp_reads_it(text, expected, monkeypatch):
    monkeypatch.setenv(threads.VARIABLE, text)
    assert threads_asked_for() == expected


@pytest.mark.parametrize("before", [None, "7"])
def test_processes_are_asked_for_threads_within_the_block_only(before, monkeypatch):
    if before is None:
        monkeypatch.delenv(threads.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(threads.VARIABLE, before)
    with asking_for(1):
        assert os.environ[threads.VARIABLE] == "1"
    assert os.environ.get(threads.VARIABLE) == before
