"""Cells whose units are trained by processes that do not wait for each other."""

import itertools
import signal

import psutil
import pytest

from gim_bench.cells.pipelines import uses_of
from gim_bench.cells.resolve import configs
from gim_bench.cells.run import run_cell
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RunsFolder
from gim_bench.records.metrics import describe
from gim_bench.records.record import Status
from gim_bench.settings.schema import BufferPolicy
from gim_bench.training.pipeline import asynchronous
from gim_bench.training.pipeline.buffer import Use
from gim_bench.training.workers import take_over
from tests.cells.crews import (
    Acting,
    At,
    copied,
    interrupted_and_finished,
    trainers_kept,
    workers_of_a_cell,
)
from tests.cells.test_pipelines import PIPELINE
from tests.cells.tiny_cells import same
from tests.forked import forked_workers
from tests.tiny_suite import CPU, tiny_bench, tiny_cell, tiny_suite
from tests.training.plain_buffer import PlainBuffer

# Three modules, of which the one in the middle is slow: 24 steps each.
SETTINGS = (
    PIPELINE,
    "encoder.blocks=[1, 1, 1]",
    "training.epochs=12",
    "training.batch_size=24",
    "training.rate_schedule={kind='cosine', warmup_epochs=1}",
    "training.buffer={size=3, slowdown={module_2=4.0}}",
)


def suite_in(folder, *overrides):
    return tiny_suite(folder, *SETTINGS, *overrides)


@pytest.fixture(scope="module", autouse=True)
def forked():
    with forked_workers():
        yield


@pytest.fixture
def trainers(monkeypatch):
    return trainers_kept(monkeypatch)


# -- one process with the same arrivals ------------------------------------------------------------


class Simulation:
    """The training of all workers in one process, with the arrivals of one that has been."""

    def __init__(self, trainer):
        self.parts = [trainer.make(n, units) for n, units in enumerate(trainer.shares)]
        self.recorded = [measured.uses for measured in trainer.measured]
        self.used = [[] for _ in self.parts]
        self.losses = [[] for _ in self.parts]
        self.policy, self.size = trainer.buffer.policy, trainer.buffer.size
        for part in self.parts:
            part.trainer.learner.train()
        self.outputs = [self._outputs(number) for number in range(len(self.parts))]
        for number in reversed(range(len(self.parts))):
            while len(self.losses[number]) < self.parts[number].steps:
                next(self.outputs[number])

    def _outputs(self, number):
        """(updates before it was made, batch) of everything that a worker hands on."""
        part, batches = self.parts[number], self._batches(number)
        top = list(part.trainer.optimisers)[-1]
        for step in range(part.steps):
            part.trainer.set_rate(part.rates(step))
            handed = []
            hand_on = None if number == len(self.parts) - 1 else handed.append
            losses = part.trainer.step(next(batches), hand_on=hand_on)
            self.losses[number].append({unit: loss.clone() for unit, loss in losses.items()})
            yield step, copied(handed[0]) if handed else None
        while True:
            yield part.steps, copied(part.trainer.outputs(next(batches), unit=top))

    def _batches(self, number):
        if number == 0:
            for epoch in itertools.count(1):
                yield from self.parts[0].source.epoch(epoch)
        buffer = PlainBuffer(self.size, self.policy)
        for use in self.recorded[number]:
            while buffer.made < use.made:
                buffer.put(*next(self.outputs[number - 1]))
            batch, found = buffer.take_content()
            self.used[number].append(found)
            yield batch


def test_one_process_with_the_same_arrivals_trains_to_the_same_bits(tmp_path, trainers):
    suite = suite_in(tmp_path)
    record = run_cell(tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "r"))
    assert record.status is Status.DONE, record.error
    (trainer,) = trainers
    simulated = Simulation(trainer)
    assert simulated.used[1:] == [measured.uses for measured in trainer.measured][1:]
    assert all(len(uses) == 24 for uses in simulated.used[1:])
    weights = trainer.learner.state_dict()
    for part, names in zip(simulated.parts, trainer.shares, strict=True):
        own = part.trainer.learner.state_dict()
        assert own.keys() < weights.keys()
        assert all(same(own, {name: weights[name] for name in own})), names
    for unit, losses in zip(("module_1", "module_2", "module_3"), simulated.losses, strict=True):
        steps = [step[unit] for step in losses]
        means = [float(one + two) / 2 for one, two in zip(steps[::2], steps[1::2], strict=True)]
        assert [row[unit] for row in record.losses] == means
    assert_uses_are_recorded(record.metrics)


def assert_uses_are_recorded(metrics):
    """Of the workers that have a buffer below them."""
    assert all(describe(name) for name in metrics)
    assert not any("staleness" in name and name.endswith("module_1") for name in metrics)
    for module in ("module_2", "module_3"):
        assert metrics[f"pipeline/uses_per_batch/{module}"] >= 1
        assert 0 <= metrics[f"pipeline/dropped_share/{module}"] < 1
        assert 0 <= metrics[f"pipeline/after_below_share/{module}"] <= 1
        if metrics[f"pipeline/after_below_share/{module}"] < 1:
            least, most = (metrics[f"pipeline/staleness_{x}/{module}"] for x in ("median", "max"))
            assert 0 <= least <= metrics[f"pipeline/staleness_p90/{module}"] <= most


@pytest.mark.parametrize("policy", BufferPolicy)
def test_nobody_waits_for_a_slow_worker(tmp_path, trainers, policy):
    """Without a buffer, the workers beside it would wait for three quarters of its time."""
    buffer = f"training.buffer={{size=8, policy='{policy}', slowdown={{module_2=4.0}}}}"
    suite = suite_in(tmp_path, buffer)
    record = run_cell(tiny_cell(suite, "gim"), tiny_bench(suite), runs=RunsFolder(tmp_path / "r"))
    assert record.status is Status.DONE, record.error
    (trainer,) = trainers
    _, slow, _ = trainer.measured
    waited = [each.seconds_without_batch + each.seconds_without_room for each in trainer.measured]
    assert max(waited) < slow.seconds / 4
    assert "train/operations" not in record.metrics  # the lowest worker encodes after its last step
    assert record.isolation


def test_staleness_is_of_outputs_that_were_made_while_the_module_below_trained():
    """A module below of 4 steps, which goes on to encode after its last one."""
    trained = [Use(3, 0, version=0, staleness=2), Use(3, 2, version=2, staleness=0)]
    finished = [Use(5 + n, 4 + n, version=4, staleness=0) for n in range(6)]
    found = uses_of([*trained, *finished], steps=4)
    assert found["after_below_share"] == 0.75
    assert (found["staleness_mean"], found["staleness_max"]) == (1.0, 2.0)


def test_outputs_of_a_finished_module_alone_have_no_staleness():
    found = uses_of([Use(5, 4, version=4, staleness=0)], steps=4)
    assert found["after_below_share"] == 1
    assert not any("staleness" in name for name in found)


# -- interrupted -----------------------------------------------------------------------------------


def test_all_workers_take_all_their_steps_through_a_death_and_an_interruption(
    tmp_path, monkeypatch
):
    """A worker is killed; then SIGTERM ends all; then the same command finishes the training."""
    states = []

    def kept(learner, state):
        states.append(state)
        take_over(learner, state)

    monkeypatch.setattr(asynchronous, "take_over", kept)
    suite, runs = suite_in(tmp_path), RunsFolder(tmp_path / "runs")
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    bench.checkpoint_seconds = 0.0

    def kill():
        oldest = sorted(workers_of_a_cell(), key=lambda child: child.create_time())
        oldest[1].kill()

    bench.progress = Acting(At(3, kill))
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.FAILED
    assert "worker 2 (module_2) of the pipeline was killed by SIGKILL" in str(record.error)
    assert not workers_of_a_cell()

    at = At(5, lambda: psutil.Process().send_signal(signal.SIGTERM))
    record = interrupted_and_finished(cell, bench, runs, at=at)
    assert record.provenance["resumed_at_step"][0] >= 5
    assert len(record.losses) == 12
    taken = [
        int(moments["step"])
        for of_unit in states[-1]["optimisers"].values()
        for moments in of_unit["state"].values()
    ]
    assert set(taken) == {24}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.held_out=0.5"], "training.held_out = 0.5 asks for losses after every epoch"),
        (["training.schedule=joint"], "training.buffer is between the processes of a pipeline"),
        (["training.buffer.slowdown={module_7=2.0}"], "module_7"),
        (["training.buffer.slowdown={module_2=0.5}"], "slowdown"),
        (["training.buffer.size=0"], "training.buffer.size"),
    ],
)
def test_what_does_not_go_together_is_one_line(overrides, said, tmp_path):
    with pytest.raises(ConfigError, match=said) as caught:
        configs(suite_in(tmp_path, *overrides), methods=["gim"], device=CPU)
    assert "\n" not in str(caught.value)
