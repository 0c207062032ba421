"""A step gives the device its work and reads nothing back, so that no GPU has to be waited for."""

import functools
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gim_bench.hardware import devices
from gim_bench.settings.schema import Precision, Schedule
from gim_bench.training.trainer import Trainer
from tests.conftest import cases
from tests.tiny_suite import CPU

# Operators whose result, or its size, the CPU has to know before it can go on.
READ_BACK = {
    "aten._local_scalar_dense", "aten.is_nonzero", "aten.equal", "aten.nonzero",
    "aten.nonzero_numpy", "aten.masked_select", "aten.index by a mask", "aten.unique_dim",
    "aten._unique2", "aten.unique_consecutive", "aten.bincount", "aten.repeat_interleave",
}  # fmt: skip


class Operators(TorchDispatchMode):
    """Counts the operators that run within it."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function.overloadpacket)
        if name == "aten.index" and any(x is not None and x.dtype is torch.bool for x in args[1]):
            name = "aten.index by a mask"
        self.counts[name] += 1
        return function(*args, **(kwargs or {}))


@functools.cache
def counted_step(number):
    """(operators, units) of the second step of every stage; constants are made in the first."""
    case, schedule = STEPS[number]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "works_in_pieces", lambda device: False)
        return operators_of(case, schedule)


def operators_of(case, schedule):
    learner, batch = case.build(dtype=torch.float32).learner, case.batch(dtype=torch.float32)
    trainer = Trainer(
        learner,
        learning_rate=1e-3,
        schedule=schedule,
        precision=Precision.FP32,
        device=CPU,
    )
    counts = Counter()
    for stage in trainer.stages():
        trainer.step(batch, only=stage)
        with Operators() as operators:
            trainer.step(batch, only=stage)
        counts += operators.counts
    return counts, len(learner.units())


@pytest.fixture
def one_hot_reads_nothing(monkeypatch):
    """On a CPU, and there alone, one_hot reads the labels to check them."""
    monkeypatch.setattr(
        torch.nn.functional, "one_hot", lambda labels, classes: torch.eye(classes).long()[labels]
    )


TRAINED = [case for case in cases() if case.trains]
STEPS = [
    *((case, Schedule.INTERLEAVED) for case in TRAINED),
    *((case, each) for case in TRAINED if case.name == "gim"
      for each in (Schedule.JOINT, Schedule.SEQUENTIAL)),
]  # fmt: skip
of_every_method = pytest.mark.parametrize(
    "number", range(len(STEPS)), ids=[f"{case}-{schedule}" for case, schedule in STEPS]
)


@pytest.mark.usefixtures("one_hot_reads_nothing")
@of_every_method
def test_a_step_reads_nothing_back_from_the_device(number):
    counts, _ = counted_step(number)
    assert not READ_BACK & counts.keys()


@pytest.mark.usefixtures("one_hot_reads_nothing")
@of_every_method
def test_the_whole_update_of_a_unit_is_one_fused_operator(number):
    """Adam's own, and the one that counts its steps; neither is one for each parameter."""
    counts, units = counted_step(number)
    assert (counts["aten._fused_adam_"], counts["aten._foreach_add_"]) == (units, units)


@pytest.mark.parametrize(
    "read_back",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: bool((x > 0).all()),
    ],
)
def test_what_the_cpu_has_to_read_is_seen(read_back):
    with Operators() as operators:
        read_back(torch.ones(3))
    assert READ_BACK & operators.counts.keys()
