"""Cells with a worker on each rank: of a pipeline, or one that shares batches."""

import hashlib
import os
import platform
import signal
import socket
import threading
import time
from contextlib import nullcontext
from itertools import count, islice
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from gim_bench.cells.parts import datasets_of_workers
from gim_bench.cells.ranks import (
    check_cells,
    check_data,
    check_hellos,
    device_of_rank,
    with_all_ranks,
)
from gim_bench.cells.resolve import configs
from gim_bench.cells.run import run_cell
from gim_bench.datasets.images.photos import Photos
from gim_bench.errors import ConfigError, DataError
from gim_bench.hardware.ranks import Rank
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from gim_bench.settings.schema import BufferPolicy
from gim_bench.training import agents
from gim_bench.training.agents import Hello
from tests.cells.crews import Acting, At, copied, trainers_kept
from tests.cells.trainings import assert_equal, suite_in, trained_in
from tests.forked import FORKED, forked_workers
from tests.ranks import GONE, ranks_started
from tests.tiny_suite import CPU, tiny_bench, tiny_cell

PIPELINE = "training.schedule=pipeline"
TWO = "training.processes=2"
LONG = "training.epochs=20"  # 40 steps
LONGER = "training.epochs=30"  # 30 steps with labels
SUPERVISED = "greedy_supervised"
DROPOUT = "encoder={kind='vgg8b', width=2, hidden=4, stem='3x3'}"  # and batch norm
HOST = platform.node()


@pytest.fixture(scope="module", autouse=True)
def forked():
    with forked_workers():
        yield


@pytest.fixture(scope="module")
def interleaved(tmp_path_factory):
    return trained_in(tmp_path_factory.mktemp("one"), LONG)


class Training:
    """A cell whose workers are on these ranks."""

    def __init__(self, folder, *overrides, method="gim"):
        suite = suite_in(folder, *overrides)
        self.cell, self.bench = tiny_cell(suite, method), tiny_bench(suite)
        self.bench.checkpoint_seconds = 0.0
        self.runs = RunsFolder(folder / "runs")

    def on(self, ranks, *, act=None):
        self.bench.ranks, self.bench.devices = ranks, ["cpu"] * ranks.rank.ranks
        self.bench.progress = Silence() if act is None else Acting(At(7, act))
        return with_all_ranks(run_cell, ranks)(self.cell, self.bench, runs=self.runs)


def children_of(process):
    return psutil.Process(process.pid).children(recursive=True)


def assert_ended(processes):
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive


# -- the same numbers ------------------------------------------------------------------------------


def story_of(training):
    """What was found as a signal, a killed worker and a killed rank interrupted it, until done."""
    found = {}
    with ranks_started(3) as (ranks, agents):
        with pytest.raises(KeyboardInterrupt):
            training.on(ranks, act=lambda: os.kill(agents[1].pid, signal.SIGTERM))

        def kill_worker():
            (worker,) = children_of(agents[1])
            worker.kill()

        found["without a worker"] = training.on(ranks, act=kill_worker)
        found["workers left"] = [child for each in agents.values() for child in children_of(each)]

        def kill_rank():
            found["workers"] = [child for each in agents.values() for child in children_of(each)]
            agents[2].kill()

        found["without a rank"] = training.on(ranks, act=kill_rank)
        with pytest.raises(ConnectionError) as error:
            training.on(ranks)
        found["next cell"] = str(error.value)
    with ranks_started(3) as (ranks, agents):
        found["done"] = training.on(ranks)
    found["exit codes"] = [process.exitcode for process in agents.values()]
    found["weights"] = load_file(training.runs.folder_of(found["done"]) / "encoder.safetensors")
    return found


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    return story_of(Training(tmp_path_factory.mktemp("ranks"), PIPELINE, LONG))


def test_three_ranks_train_to_the_bits_of_one_process_whatever_ends_in_between(story, interleaved):
    record = story["done"]
    assert record.status is Status.DONE, record.error
    assert record.provenance["resumed_at_step"][0] > 14  # the third part's, whose end a kill took
    assert_equal((record, story["weights"]), interleaved)
    assert story["exit codes"] == [0, 0]


def test_a_killed_worker_fails_the_cell_in_a_line(story):
    record = story["without a worker"]
    assert record.status is Status.FAILED
    assert record.error == (
        f"worker 2 (module_2) of the pipeline, rank 1 on {HOST}, was killed by SIGKILL (exit code "
        f"-9), as by the system when memory is full: the same command resumes from the last "
        f"checkpoint"
    )
    assert not story["workers left"]


def test_a_killed_rank_fails_the_cell_in_a_line_and_ends_the_others(story):
    record = story["without a rank"]
    assert record.status is Status.FAILED
    assert record.error == (
        f"worker 3 (module_3) of the pipeline, rank 2 on {HOST}, is out of reach: the same command "
        f"resumes from the last checkpoint"
    )
    assert story["next cell"] == f"rank 2 on {HOST} is gone"
    assert len(story["workers"]) == 2
    assert_ended(story["workers"])


def test_ranks_tell_what_they_hand_on_and_where_they_are(tmp_path):
    training = Training(tmp_path, PIPELINE, "training.epochs=2", "training.workers=2")
    with ranks_started(2) as (ranks, _):
        record = training.on(ranks)
    assert record.status is Status.DONE, record.error
    handed = [record.metrics[f"pipeline/bytes_per_sample/module_{m}"] for m in (2, 3)]
    assert handed == [25 * 16 * 4 * 4 * 4, 0]
    assert record.provenance["devices"] == [f"cpu on {HOST}"] * 2
    assert set(record.provenance["energy"].values()) == {
        "not measured: workers are on several ranks"
    }


# -- without waiting -------------------------------------------------------------------------------

NONE_HELD_OUT = "training.held_out=0"
BUFFER = "training.buffer={size=3, policy='least_used', slowdown={module_2=3.0}}"


@pytest.fixture(scope="module")
def unhurried(tmp_path_factory):
    """The same of ranks that do not wait."""
    folder = tmp_path_factory.mktemp("buffered")
    return story_of(Training(folder, PIPELINE, LONG, NONE_HELD_OUT, BUFFER))


def test_ranks_that_do_not_wait_take_all_their_steps_whatever_ends_in_between(unhurried):
    record = unhurried["done"]
    assert record.status is Status.DONE, record.error
    assert record.provenance["resumed_at_step"][0] > 7  # the second part's
    assert len(record.losses) == 20
    assert unhurried["exit codes"] == [0, 0]


@pytest.mark.parametrize(
    ("who", "said"),
    [
        ("worker", "worker 2 (module_2) of the pipeline, rank 1 on {}, was killed by SIGKILL"),
        ("rank", "worker 3 (module_3) of the pipeline, rank 2 on {}, is out of reach"),
    ],
)
def test_a_death_among_ranks_that_do_not_wait_fails_the_cell_in_a_line(unhurried, who, said):
    record = unhurried[f"without a {who}"]
    assert record.status is Status.FAILED
    assert record.error.startswith(said.format(HOST))
    assert_ended(unhurried["workers"])


@pytest.mark.parametrize(
    ("policy", "slow"),
    [(BufferPolicy.LEAST_USED, "module_1"), (BufferPolicy.FRESHEST, "module_3")],
)
def test_one_process_that_uses_the_same_batches_trains_to_the_same_bits(
    policy, slow, tmp_path, monkeypatch
):
    """Which ones these were is known by their numbers."""
    buffer = f"training.buffer={{size=3, policy='{policy}', slowdown={{{slow}=3.0}}}}"
    training = Training(tmp_path, PIPELINE, LONG, NONE_HELD_OUT, buffer, "training.workers=2")
    trainers = trainers_kept(monkeypatch)
    with ranks_started(2) as (ranks, _):
        record = training.on(ranks)
    assert record.status is Status.DONE, record.error
    (trainer,) = trainers
    lower, upper = (trainer.make(number, units) for number, units in enumerate(trainer.shares))
    uses = trainer.measured[1].uses
    assert len(uses) == lower.steps
    assert [use.made for use in uses] == sorted(use.made for use in uses)
    assert all(use.version == min(use.number, lower.steps) for use in uses)
    assert all(0 <= use.staleness < use.made for use in uses)
    handed = list(islice(outputs_of(lower), max(lower.steps, *(use.number + 1 for use in uses))))
    upper.trainer.learner.train()
    for step, use in enumerate(uses):
        upper.trainer.set_rate(upper.rates(step))
        upper.trainer.step(handed[use.number])
    weights = trainer.learner.state_dict()
    for part in (lower, upper):
        own = part.trainer.learner.state_dict()
        assert len(own) > 1
        assert not [name for name in own if not torch.equal(own[name], weights[name])]
    if slow == "module_3":
        assert uses[-1].number < 2 * len(uses)
        assert record.metrics["pipeline/dropped_share/module_3"] > 0


def outputs_of(part):
    """What the lowest worker hands on: of its steps, then without training."""
    trainer = part.trainer
    trainer.learner.train()
    batches = (batch for epoch in count(1) for batch in part.source.epoch(epoch))
    handed = []
    for step, batch in enumerate(islice(batches, part.steps)):
        trainer.set_rate(part.rates(step))
        trainer.step(batch, hand_on=handed.append)
        yield copied(handed.pop())
    for batch in batches:
        yield copied(trainer.outputs(batch, unit=list(trainer.optimisers)[-1]))


@pytest.mark.parametrize("is_told", [False, True])
def test_a_rank_whose_rank_0_leaves_ends_with_its_worker(is_told, tmp_path):
    training = Training(tmp_path, PIPELINE, LONG, "training.workers=2")
    with ranks_started(2) as (ranks, agents):
        workers = []

        def leave():
            workers.extend(children_of(agents[1]))
            ranks.close() if is_told else ranks.agents[0].connection.close()

        record = training.on(ranks, act=leave)
        assert record.status is Status.FAILED
        assert len(workers) == 1
        assert_ended(workers)
        agents[1].join(60)
    assert agents[1].exitcode == (0 if is_told else GONE)


# -- shared batches --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharing(tmp_path_factory):
    """A training of shared batches that a signal and a killed rank interrupt, until it is done."""
    training = Training(tmp_path_factory.mktemp("sharing"), TWO, DROPOUT, LONGER, method=SUPERVISED)
    found = {}
    with ranks_started(2) as (ranks, agents):
        with pytest.raises(KeyboardInterrupt):
            training.on(ranks, act=lambda: os.kill(agents[1].pid, signal.SIGTERM))

        def kill_rank():
            found["workers"] = children_of(agents[1])
            agents[1].kill()

        found["without a rank"] = training.on(ranks, act=kill_rank)
    with ranks_started(2) as (ranks, agents):
        found["done"] = training.on(ranks)
    found["exit codes"] = [process.exitcode for process in agents.values()]
    found["weights"] = load_file(training.runs.folder_of(found["done"]) / "encoder.safetensors")
    return found


def test_ranks_share_batches_to_the_bits_of_processes_of_one_machine(sharing, tmp_path):
    """Each goes on with its own dropout, whatever ends in between."""
    record = sharing["done"]
    assert record.status is Status.DONE, record.error
    assert record.provenance["resumed_at_step"][0] > 7  # the second part's, whose end a kill took
    here = trained_in(tmp_path, TWO, DROPOUT, LONGER, method=SUPERVISED)
    assert_equal((record, sharing["weights"]), here)
    assert record.key == here[0].key
    assert sharing["exit codes"] == [0]
    assert record.provenance["devices"] == [f"cpu on {HOST}"] * 2


def test_a_killed_rank_that_shares_batches_fails_the_cell_in_a_line(sharing):
    record = sharing["without a rank"]
    assert record.status is Status.FAILED
    assert record.error == (
        f"process 2 of the 2 that share each batch, rank 1 on {HOST}, is out of reach: the same "
        f"command resumes from the last checkpoint"
    )
    assert len(sharing["workers"]) == 1
    assert_ended(sharing["workers"])


class OfFolder(Photos):
    """Photographs that differ from folder to folder."""

    def fingerprint(self):
        if self.data_dir is None:
            raise DataError("no photographs: name their folder with --data-dir")
        return hashlib.sha256(self.data_dir.name.encode()).hexdigest()


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("there/a", ""),
        ("there/b", " has other data in there/b (checksum 3e23e8160039594a) than rank 0 (ca978112"),
        (None, ": no photographs: name their folder with --data-dir"),
    ],
)
def test_ranks_that_share_batches_have_the_data_of_rank_0(folder, said, tmp_path):
    bench = tiny_bench(suite_in(tmp_path, TWO))
    bench.dataset = OfFolder(options=bench.dataset.options, data_dir=Path("here/a"))
    sha256 = bench.dataset.fingerprint()
    with ranks_started(2, data_dir=None if folder is None else Path(folder)) as (ranks, agents):
        bench.ranks = ranks
        context = pytest.raises(DataError) if said else nullcontext()
        with context as caught:
            check_data(bench, ranks, sha256=sha256)
        assert not children_of(agents[1])
        ranks.check()
    if said:
        assert str(caught.value).startswith(f"rank 1 on {HOST}{said}")


class Large(Photos):
    """Photographs that take long to read."""

    def fingerprint(self):
        time.sleep(60)


def test_a_signal_to_a_rank_ends_the_reading_of_its_data(tmp_path):
    bench = tiny_bench(suite_in(tmp_path, TWO))
    bench.dataset = Large(options=bench.dataset.options, data_dir=None)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ranks_started(2) as (ranks, agents):
        threading.Timer(0.5, os.kill, (agents[1].pid, signal.SIGTERM)).start()
        bench.ranks = ranks
        with pytest.raises(KeyboardInterrupt):
            check_data(bench, ranks, sha256="")
        assert not children_of(agents[1])
    signal.signal(signal.SIGTERM, before)


def test_each_rank_reads_its_own_folder(tmp_path):
    bench = tiny_bench(suite_in(tmp_path, TWO))
    bench.dataset = OfFolder(options=bench.dataset.options, data_dir=Path("here/a"))
    with ranks_started(2, data_dir=Path("there/a")) as (bench.ranks, _):
        found = [make().data_dir for make in datasets_of_workers(bench, workers=2)]
    assert found == [Path("here/a"), Path("there/a")]


# -- strangers -------------------------------------------------------------------------------------


def test_a_rank_that_greets_as_other_code_does_gets_one_line():
    here, there = FORKED.Pipe()
    there.send_bytes(b"cgim_bench.elsewhere\nHello\n.")
    with pytest.raises(ConfigError, match=r"^a rank greets as another version of gim_bench"):
        agents._greeting(here)


@pytest.mark.parametrize("shown", [b"?" * 32, b"?"])
def test_whoever_shows_no_token_in_time_is_turned_away(shown, monkeypatch):
    def knock(ranks):
        with socket.create_connection(ranks._server.getsockname()) as stranger:
            stranger.sendall(shown)
            turned_away.append(stranger.recv(1))

    turned_away = []
    monkeypatch.setattr(agents, "GREETING_SECONDS", 0.2)
    with ranks_started(2) as (ranks, _):
        stranger = threading.Thread(target=knock, args=(ranks,))
        stranger.start()
        assert ranks._caller(60) is None
        stranger.join()
    assert turned_away == [b""]


# -- what does not go together ---------------------------------------------------------------------


def rank(number=0, *, ranks=2, local=0):
    return Rank(number=number, ranks=ranks, local=local, here=ranks, address="127.0.0.1", port=1,
                attempt="0", has_store=True)  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "no cell has workers for them: add --set training.processes=2 or --set training."),
        (["training.processes=5"], "training.processes = 5: start 5, or add --set training.proc"),
        ([TWO, "fresh_process=true"], "add --set fresh_process=false"),
        ([PIPELINE], "'gim' has 3 worker(s): start 3, or add --set training.workers=2"),
        ([PIPELINE, "training.workers=2", "fresh_process=true"], "add --set fresh_process=false"),
    ],
)  # fmt: skip
def test_ranks_without_a_worker_for_each_get_one_line(overrides, said, tmp_path):
    suite = suite_in(tmp_path, *overrides)
    found = configs(suite, methods=["gim", "random_init"], device=CPU)
    with pytest.raises(ConfigError) as caught:
        check_cells(suite, found.values(), rank())
    assert str(caught.value).startswith("2 ranks were started (WORLD_SIZE)")
    assert said in str(caught.value)


@pytest.mark.parametrize("overrides", [[PIPELINE, "training.workers=2"], [TWO]])
def test_ranks_that_are_the_workers_pass(overrides, tmp_path):
    suite = suite_in(tmp_path, *overrides)
    found = configs(suite, methods=["gim", "random_init"], device=CPU)
    check_cells(suite, found.values(), rank())


@pytest.mark.parametrize(
    ("device", "named", "number", "expected"),
    [
        ("cpu", [], 1, "cpu"),
        ("cuda", [], 3, "cuda:1"),
        ("auto", [], 0, "cuda:0"),
        ("cuda:0", [], 1, "cuda:0"),
        ("auto", ["cuda:1", "cuda:0"], 0, "cuda:1"),
        ("auto", ["cuda:1", "cuda:0"], 1, "cuda:0"),
    ],
)
def test_a_rank_has_the_device_named_for_it_or_the_gpu_of_its_local_number(
    device, named, number, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = rank(number, ranks=len(named) or 4, local=number % 2)
    assert device_of_rank(found, device=device, named=named) == expected


def test_a_device_is_named_for_each_rank():
    with pytest.raises(ConfigError, match=r"has 1 device\(s\), and there are 2 ranks: name one"):
        device_of_rank(rank(), device="auto", named=["cpu"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"code": "code 0"}, "has other code than rank 0 (code 0; here code "),
        ({"device": "cuda:0"}, "has the device cuda:0, and rank 0 has cpu"),
        ({"error": "no device 'cuda:7'"}, "rank 1 on elsewhere: no device 'cuda:7'"),
    ],
)
def test_a_rank_that_cannot_work_with_rank_0_gets_one_line(changes, said, monkeypatch):
    monkeypatch.setattr("gim_bench.cells.ranks._code", lambda: "code 1")
    hello = Hello(1, "elsewhere", "code 1", "cpu", None, "")
    check_hellos([hello], device="cpu")
    with pytest.raises(ConfigError) as caught:
        check_hellos([hello._replace(**changes)], device="cpu")
    assert str(caught.value).startswith("rank 1 on elsewhere")
    assert said in str(caught.value)
