"""What an array of workers asks a cluster for."""

from types import SimpleNamespace

import pytest

from gim_bench.cells.launch import Costs, costs_of, resources
from gim_bench.errors import ConfigError
from gim_bench.hardware import threads
from gim_bench.settings.launchers import SlurmOptions
from tests.tiny_suite import tiny_bench, tiny_cell, tiny_suite

GIB = 2**30
LARGE = ("encoder.width=64", "encoder.blocks=[3,4]")


@pytest.fixture(autouse=True)
def nobody_asks_for_threads(monkeypatch):
    monkeypatch.delenv(threads.VARIABLE, raising=False)


@pytest.fixture
def small(tmp_path):
    return [tiny_cell(tiny_suite(tmp_path), "gim", seed=seed) for seed in range(8)]


@pytest.fixture
def large(tmp_path):
    suite = tiny_suite(tmp_path, *LARGE)
    return [tiny_cell(suite, "gim", seed=seed) for seed in range(8)]


def asked(cells, *, gpus=0, tasks=None, cores=None, costs=None, alone=False, **options):
    return resources(
        cells,
        SlurmOptions(**options),
        gpus=gpus,
        tasks=tasks,
        cores=cores,
        costs=costs,
        alone=alone,
    )


def hours(each, *, cells, memory_gib=2):
    seconds = 3600.0 * each
    return Costs(
        seconds=seconds * cells, longest_seconds=seconds, memory_bytes=int(memory_gib * GIB)
    )


def test_a_small_cell_on_a_cpu_has_a_task_of_one_core_and_one_thread(small):
    found = asked(small)
    assert (found.tasks, found.cells_at_once, found.cpus, found.threads) == (8, 1, 1, 1)


def test_small_cells_share_a_gpu_and_large_ones_do_not(small, large):
    assert (asked(small, gpus=1).cells_at_once, asked(small, gpus=1).tasks) == (4, 2)
    assert (asked(large, gpus=1).cells_at_once, asked(large, gpus=1).tasks) == (1, 8)


def test_a_large_cell_computes_with_all_cores_of_its_task(large):
    assert (asked(large).cpus, asked(large).threads) == (4, 4)
    assert (asked(large, cpus=16).threads, asked(large, cpus=16, cells_at_once=2).threads) == (
        16,
        8,
    )


def test_two_gpus_have_a_cell_each(large):
    assert asked(large, gpus=2).cells_at_once == 2


def test_threads_that_are_asked_for_are_handed_on(large, monkeypatch):
    monkeypatch.setenv(threads.VARIABLE, "3")
    assert asked(large).threads == 3


def test_there_are_no_more_tasks_than_cells_and_as_many_as_asked_for(small):
    assert asked(small, tasks=3).tasks == 3
    assert asked(small, tasks=300).tasks == 8


def test_tasks_on_one_machine_ask_for_no_more_than_its_cores(small, large):
    """Nor are there more tasks than cores, unless more are asked for."""
    assert (asked(small, cores=2).tasks, asked(small, cores=2, tasks=3).tasks) == (2, 3)
    for found in (asked(large, cores=2), asked(large, cores=2, cpus=16)):
        assert (found.cpus, found.threads) == (2, 2)


def test_a_suite_that_measures_memory_has_one_task_of_one_cell(small):
    found = asked(small, gpus=1, alone=True)
    assert (found.tasks, found.cells_at_once) == (1, 1)


@pytest.mark.parametrize("own", ["training.schedule=pipeline", "training.processes=2"])
def test_a_cell_with_processes_of_its_own_has_a_task_to_itself_with_a_core_for_each(own, tmp_path):
    """However many GPUs and cells at once are asked for; other cells of the task wait as well."""
    cells = [tiny_cell(tiny_suite(tmp_path, own), "gim", seed=seed) for seed in range(8)]
    found = asked(cells, gpus=2, cells_at_once=4)
    assert (found.tasks, found.cells_at_once, found.cpus, found.threads) == (8, 1, 2, 1)


def test_a_task_has_a_gpu_for_each_process_of_a_cell(tmp_path):
    cells = [tiny_cell(tiny_suite(tmp_path, "training.processes=2"), "gim")]
    with pytest.raises(ConfigError, match="write gpus = 2 into the file of --launcher-options"):
        asked(cells, gpus=1)


def test_the_time_limit_is_twice_the_share_of_a_worker_in_tens_of_minutes(small):
    """Eight cells of an hour by four workers: two hours each, twice that, and five minutes."""
    assert asked(small, tasks=4, costs=hours(1, cells=8)).minutes == 250


def test_no_limit_is_shorter_than_the_longest_cell_or_longer_than_a_day(small):
    uneven = Costs(seconds=3600, longest_seconds=3500, memory_bytes=GIB)
    assert asked(small, tasks=8, costs=uneven).minutes == 130
    assert asked(small, tasks=1, costs=hours(9, cells=8)).minutes == 24 * 60


def test_memory_is_that_of_all_cells_at_once_and_half_as_much_again(small):
    assert asked(small, costs=hours(1, cells=8)).memory_gib == 4
    assert asked(small, costs=hours(1, cells=8), cells_at_once=4).memory_gib == 13


def test_options_win_over_the_plan(small):
    found = asked(small, costs=hours(1, cells=8), minutes=30, memory_gib=7)
    assert (found.minutes, found.memory_gib) == (30, 7)


def test_without_a_plan_time_and_memory_are_the_clusters(small):
    assert (asked(small).minutes, asked(small).memory_gib) == (None, None)


@pytest.fixture
def timed(monkeypatch):
    """The seeds of the cells that were timed, of 10 seconds and 3 TiB each."""
    seeds = []

    def estimate(cell, bench):
        seeds.append(cell.seed)
        return SimpleNamespace(seconds=10.0, peak_bytes=3 * 2**40)

    monkeypatch.setattr("gim_bench.cells.launch.estimate", estimate)
    return seeds


def test_the_memory_of_a_cell_is_that_of_its_processes_and_their_parent(tmp_path, timed):
    suite = tiny_suite(tmp_path, "training.processes=2")
    assert costs_of([tiny_cell(suite, "gim")], tiny_bench(suite)).memory_bytes == 9 * 2**40


def test_the_workers_of_a_pipeline_share_its_memory_out(tmp_path, timed):
    suite = tiny_suite(tmp_path, "training.schedule=pipeline")
    found = costs_of([tiny_cell(suite, "gim")], tiny_bench(suite)).memory_bytes
    assert 3 * 2**40 < found < 4 * 2**40


def test_costs_count_every_seed_and_time_one(tmp_path, timed):
    suite = tiny_suite(tmp_path)
    cells = [tiny_cell(suite, "gim", seed=seed) for seed in range(3)]
    found = costs_of(cells, tiny_bench(suite))
    assert (timed, found.seconds, found.longest_seconds) == ([0], 30.0, 10.0)
    assert found.memory_bytes == 3 * 2**40
