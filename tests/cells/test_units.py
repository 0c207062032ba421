"""Depth of isolation: the modules of one encoder, grouped into K isolated units."""

from itertools import combinations
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from gim_bench.cells.build import build, trainer_of
from gim_bench.cells.resolve import configs
from gim_bench.contract import GradientFlow, Split
from gim_bench.errors import ConfigError
from gim_bench.settings.keys import keyed
from gim_bench.training.audit import audit, contradictions, gradient_norms
from tests.tiny_suite import CPU, tiny_bench, tiny_cell, tiny_suite

MODULES = 3


def suite_with(folder, *, like="gim", **row):
    """A suite of three modules, whose row "cut" is `like` with these entries."""
    entries = "".join(f", {name}={value!r}" for name, value in row.items())
    return tiny_suite(
        folder,
        "encoder.blocks=[1,1,1]",
        f'methods=["{like}", "cut"]',
        f'method.cut={{like="{like}"{entries}}}',
        *(["objective.hinge.prediction_steps=2"] if like == "clapp" else []),
    )


def step_of(suite, method):
    """A learner after two steps, with the audit of a further step."""
    cell, bench = tiny_cell(suite, method), tiny_bench(suite)
    learner = build(cell, bench, target=bench.targets[0])
    trainer = trainer_of(cell, learner, device=CPU)
    split = Split(cell.config.method.trains_on)
    batches = list(bench.batches(cell, split).epoch(0))
    for batch in (batches * 2)[:2]:
        trainer.step(batch)
    return learner, audit(trainer, batches[0], steps=1).isolation


def alike(one, other) -> bool:
    """Whether the encoders of two learners have the same weights, bit for bit."""
    mine, theirs = one.encoder.state_dict(), other.encoder.state_dict()
    return all(torch.equal(mine[name], theirs[name]) for name in mine.keys() | theirs.keys())


@pytest.mark.parametrize("like", ["gim", "clapp"])
def test_one_unit_trains_bit_for_bit_as_the_end_to_end_twin(like, tmp_path):
    one, _ = step_of(suite_with(tmp_path, like=like, units=1), "cut")
    twin, _ = step_of(suite_with(tmp_path, like=like, gradient_flow="end_to_end"), "cut")
    assert alike(one, twin)


@pytest.mark.parametrize("like", ["gim", "clapp", "greedy_supervised"])
def test_as_many_units_as_modules_train_bit_for_bit_as_the_isolated_method(like, tmp_path):
    suite = suite_with(tmp_path, like=like, units=MODULES)
    assert alike(step_of(suite, "cut")[0], step_of(suite, like)[0])


def test_other_numbers_of_units_train_other_weights(tmp_path):
    """Else the comparisons above would say nothing."""
    found = [step_of(suite_with(tmp_path, units=units), "cut")[0] for units in (1, 2, 3)]
    assert not any(alike(one, other) for one, other in combinations(found, 2))


def test_gradients_reach_exactly_the_modules_of_the_unit(tmp_path):
    _, isolation = step_of(suite_with(tmp_path, units=2), "cut")
    reached = {loss: [n for n, norm in row.items() if norm != 0] for loss, row in isolation.items()}
    assert reached == {"module_1": ["module_1"], "module_3": ["module_2", "module_3"]}
    assert contradictions(isolation, flow=GradientFlow.ISOLATED, units=2) == []


def test_a_detach_that_is_missing_between_units_is_found(tmp_path):
    suite = suite_with(tmp_path, units=2, schedule="joint")
    cell, bench = tiny_cell(suite, "cut"), tiny_bench(suite)
    learner = build(cell, bench, target=bench.targets[0])
    batch = next(iter(bench.batches(cell, Split.UNLABELLED).epoch(0)))
    trainer = trainer_of(cell, learner, device=CPU)
    with patch.object(Tensor, "detach", lambda tensor: tensor):
        isolation = gradient_norms(trainer, batch, only=None)
    (leak,) = contradictions(isolation, flow=GradientFlow.ISOLATED, units=2)
    assert leak.startswith("the loss of module_3 reaches module_1 (norm ")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"units": 4}, "has 3 modules: use 3 or less"),
        ({"units": 2, "gradient_flow": "end_to_end"}, "flow of 'gim' is end_to_end: leave out"),
    ],
    ids=["more units than modules", "end to end"],
)
def test_units_that_make_no_sense_are_refused(row, complaint, tmp_path):
    with pytest.raises(ConfigError, match=complaint):
        configs(suite_with(tmp_path, **row), methods=["cut"], device=CPU)


def test_units_change_the_key_of_a_cell_only_where_they_are_set(tmp_path):
    suite = suite_with(tmp_path, units=2)
    assert "units" not in keyed(tiny_cell(suite, "gim").config)["method"]
    assert keyed(tiny_cell(suite, "cut").config)["method"]["units"] == 2
