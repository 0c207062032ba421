"""The command `run` as a launcher starts it, once for each rank."""

import json
import socket

import pytest

from gim_bench.hardware.ranks import rank_of
from tests.cli.commands import PLAIN
from tests.forked import FORKED, forked_workers
from tests.ranks import be

PIPELINE = ("--method", "gim", "--set", "training.schedule=pipeline")


@pytest.fixture
def ranks(monkeypatch):
    """Makes this process rank 0 of two; the other is forked, and ends with exit code 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    with forked_workers():
        other = FORKED.Process(target=be, args=(rank_of({**environment, "RANK": "1"}),))
        other.start()
        yield
        other.join(60)
        other.kill()
        other.join()
        assert other.exitcode == 0


def test_ranks_run_a_pipeline_and_one_of_them_writes_the_record(ranks, gim_bench, tmp_path):
    answer = gim_bench(*PLAIN, *PIPELINE, "--json")
    assert answer.code == 0, answer.err
    (record,) = json.loads(answer.out)
    assert record["metrics"]["pipeline/workers"] == 2
    assert record["provenance"]["devices"] == [f"cpu on {socket.gethostname()}"] * 2
    assert len([*tmp_path.glob("runs/tiny/gim/*/record.json")]) == 1


def test_ranks_share_batches_and_one_of_them_writes_the_record(ranks, gim_bench, tmp_path):
    answer = gim_bench(*PLAIN, "--method", "gim", "--set", "training.processes=2", "--json")
    assert answer.code == 0, answer.err
    (record,) = json.loads(answer.out)
    assert record["metrics"]["data_parallel/processes"] == 2
    assert record["provenance"]["devices"] == [f"cpu on {socket.gethostname()}"] * 2
    assert len([*tmp_path.glob("runs/tiny/gim/*/record.json")]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "2 ranks were started (WORLD_SIZE), and no cell has workers for them: add"),
        (
            ("--set", "training.processes=4"),
            "2 ranks were started (WORLD_SIZE), and the batches of 'gim' are shared by training.",
        ),
        (
            ("--set", "training.processes=2", "--workers", "2"),
            "2 workers (--workers or GIM_BENCH_WORKERS) for cells that have processes of their own",
        ),
        (("--devices", "cpu,cpu,cpu"), "--devices cpu,cpu,cpu has 3 device(s), and there are 2"),
    ],
)
def test_rank_0_refuses_in_one_line_and_lets_the_other_go(options, said, ranks, gim_bench):
    answer = gim_bench(*PLAIN, *options)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.splitlines()[-1].startswith(f"error: {said}")


def test_ranks_that_do_not_come_get_one_line(gim_bench, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name, text in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": str(port)}.items():  # fmt: skip
        monkeypatch.setenv(name, text)
    monkeypatch.setattr("gim_bench.training.agents.MEETING_SECONDS", 0.2)
    answer = gim_bench(*PLAIN, *PIPELINE)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("error: of 3 ranks, 1, 2 did not come within 0 s")
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize("option", ["--plan", "--why"])
def test_a_plan_is_made_by_rank_0_alone(option, gim_bench, monkeypatch):
    for name, text in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, text)
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        answer = gim_bench(*PLAIN, "--method", "random_init", option)
        assert answer.code == 0, answer.err
        said.append(answer.out)
    assert "random_init seed 0" in said[0]
    assert said[1] == ""


@pytest.mark.parametrize("command", ["sweep", "probe", "verify", "report", "check"])
def test_ranks_beside_rank_0_leave_other_commands_than_run_to_it(command, gim_bench, monkeypatch):
    for name, text in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, text)
    more = ("--submission", "submissions/me") if command == "verify" else ()
    answer = gim_bench(command, "--suite", "./tiny.toml", *more)
    assert (answer.code, answer.out) == (0, "")
    assert answer.err == "rank 1 of 2 (WORLD_SIZE) ends: rank 0 runs this command\n"
    monkeypatch.setenv("RANK", "0")
    assert gim_bench(command, "--suite", "./tiny.toml", *more).code != 0  # nothing has been run


@pytest.mark.parametrize("number", ["0", "1"])
def test_a_launcher_within_ranks_gets_one_line(number, gim_bench, monkeypatch):
    for name, text in {"RANK": number, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                       "MASTER_PORT": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, text)
    answer = gim_bench(*PLAIN, "--launcher", "slurm")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: --launcher slurm in one of 2 ranks (WORLD_SIZE)")
