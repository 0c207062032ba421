"""How the cores of a machine are shared out between cells."""

import pytest
import torch

from gim_bench.cells import shares
from gim_bench.cells.resolve import configs
from gim_bench.cells.shares import Share, is_small, share_out
from gim_bench.hardware import threads
from gim_bench.settings.suites import load_suite
from tests.tiny_suite import CPU, tiny_cell, tiny_suite

GIB = 2**30
LARGE = ("encoder.width=64", "encoder.blocks=[3,4]")


@pytest.fixture
def machine(monkeypatch):
    """A machine of eight cores and 64 GiB, where nobody asks for threads."""
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(shares, "cores", lambda: 8)
    monkeypatch.setattr(shares, "available_bytes", lambda: 64 * GIB)
    return monkeypatch


def cells_of(folder, *overrides, seeds):
    suite = tiny_suite(folder, *overrides)
    return [tiny_cell(suite, "gim", seed=seed) for seed in range(seeds)]


def shared(cells, *, workers=None, device=CPU, alone=False):
    return share_out(cells, device=device, workers=workers, alone=alone)


def test_an_encoder_of_a_few_channels_is_small_and_the_papers_is_not(tmp_path):
    tiny, papers = (cells_of(tmp_path, *o, seeds=1)[0].config for o in ((), LARGE))
    assert (is_small(tiny), is_small(papers)) == (True, False)


def test_every_encoder_of_the_shipped_suites_is_small_or_not():
    """Encoders are sketched without memory for their weights."""
    answers = {
        name: {is_small(c) for c in configs(load_suite(name), methods=(), device=CPU).values()}
        for name in ("quickstart", "quickstart-audio", "family", "stl10", "librispeech")
    }
    assert answers == {
        "quickstart": {True}, "quickstart-audio": {True}, "family": {True},
        "stl10": {False}, "librispeech": {False},
    }  # fmt: skip


def test_small_cells_have_a_worker_of_one_thread_for_each_core(machine, tmp_path):
    assert shared(cells_of(tmp_path, seeds=20)) == Share(workers=8, threads=1)


def test_there_are_no_more_workers_than_cells(machine, tmp_path):
    assert shared(cells_of(tmp_path, seeds=3)) == Share(workers=3, threads=1)


def test_a_small_cell_alone_has_one_thread_on_any_machine(machine, tmp_path):
    assert shared(cells_of(tmp_path, seeds=1)) == Share(workers=1, threads=1)
    machine.setattr(shares, "cores", lambda: 64)
    assert shared(cells_of(tmp_path, seeds=1)) == Share(workers=1, threads=1)


def test_memory_limits_the_workers(machine, tmp_path):
    machine.setattr(shares, "available_bytes", lambda: 5 * GIB)
    assert shared(cells_of(tmp_path, seeds=20)).workers == 2


def test_large_cells_have_all_cores_one_after_another(machine, tmp_path):
    assert shared(cells_of(tmp_path, *LARGE, seeds=4)) == Share(workers=1, threads=8)


def test_workers_that_are_asked_for_share_the_cores(machine, tmp_path):
    assert shared(cells_of(tmp_path, *LARGE, seeds=4), workers=3) == Share(workers=3, threads=2)


def test_threads_that_are_asked_for_are_given_and_leave_fewer_workers(machine, tmp_path):
    machine.setenv(threads.VARIABLE, "4")
    assert shared(cells_of(tmp_path, seeds=20)) == Share(workers=2, threads=4)
    assert shared(cells_of(tmp_path, *LARGE, seeds=20)) == Share(workers=1, threads=4)


def test_cells_that_must_be_alone_have_one_worker(machine, tmp_path):
    assert shared(cells_of(tmp_path, seeds=20), alone=True).workers == 1


def test_without_cells_there_is_one_worker(machine):
    assert shared([]) == Share(workers=1, threads=1)


def test_gpus_are_shared_out_unless_one_is_named(machine, tmp_path):
    machine.setattr(torch.cuda, "device_count", lambda: 4)
    cells = cells_of(tmp_path, seeds=20)
    assert shared(cells, device=torch.device("cuda")).workers == 4
    assert shared(cells, device=torch.device("cuda:1")).workers == 1
    assert shares.device_of(5, torch.device("cuda")) == "cuda:1"
    assert shares.device_of(5, torch.device("cuda:3")) == "cuda:3"


def test_a_share_is_said_in_words():
    assert str(Share(workers=1, threads=2)) == "1 worker of 2 threads"
    assert str(Share(workers=8, threads=1)) == "8 workers of 1 thread"
