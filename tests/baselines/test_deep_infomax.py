"""Deep InfoMax on its folded network: what is local and global, and how far its losses reach.

The conformance tests run here with batch norm, and with both kinds of globals.
"""

import math
from dataclasses import replace

import pytest
import torch

from baselines.deep_infomax import DeepInfoMax, GreedyDeepInfoMax
from gim_bench.contract import Modality
from gim_bench.encoders.folded_convnet import FoldedConvNet
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import module_name
from gim_bench.testing.cases import TINY, Case, encoder_case, encodings_of, method_cases
from gim_bench.testing.test_method import *  # noqa: F403 - pytest runs the tests by their names
from gim_bench.testing.test_traits import *  # noqa: F403

FOLDED = encoder_case(
    FoldedConvNet, options={"kind": "folded_convnet", "width": 2}, shape=(1, 40, 40)
)


def case_of(name, *, method=DeepInfoMax, on=FOLDED, **options) -> Case:
    (case,) = method_cases(
        method, name=name, encoders=[on], options=options, objective={"mi_units": 8}
    )
    return case


MEAN = case_of("mean")
TOP_GRID = case_of("top_grid", globals="top_grid")
GREEDY = case_of("greedy", method=GreedyDeepInfoMax)
CASES = [MEAN, TOP_GRID, GREEDY]


def given_to_heads(case):
    """The grids that every head of the learner is given, by unit, and those of all modules."""
    learner, batch = case.build().learner, case.batch()
    found = {}
    for name, head in learner.heads.items():
        head.register_forward_pre_hook(lambda _, given, name=name: found.update({name: given}))
    list(learner.losses(batch))
    return found, encodings_of(learner.encoder, batch.inputs)


def assert_head_is_given(given, local, summary):
    torch.testing.assert_close(given, (local, summary), rtol=1e-12, atol=1e-12)


# -- local and global encodings --------------------------------------------------------------------


def test_globals_of_the_top_grid_are_set_against_the_folded_grid_as_published():
    given, grids = given_to_heads(TOP_GRID)
    assert [tuple(grid.shape[1:]) for grid in grids[2:]] == [(4, 4, 4), (2, 2, 4)]
    assert_head_is_given(given["module_4"], grids[2], grids[3])


def test_the_mean_of_the_top_grid_is_set_against_the_top_grid():
    given, grids = given_to_heads(MEAN)
    top = grids[3]
    assert_head_is_given(given["module_4"], top, top.sum(dim=(1, 2), keepdim=True) / 4)


def test_every_module_of_the_isolated_twin_is_set_against_its_own_mean():
    given, grids = given_to_heads(GREEDY)
    assert list(given) == [module_name(m) for m in range(4)]
    for each, grid in zip(given.values(), grids, strict=True):
        assert_head_is_given(each, grid, grid.mean(dim=(1, 2), keepdim=True))


def test_no_module_or_head_of_the_isolated_twin_learns_from_another_s_loss():
    """∂loss_m/∂θ_n is 0 exactly where n ≠ m."""
    learner, batch = GREEDY.build().learner, GREEDY.batch()
    units = learner.units()
    for unit, loss in learner.losses(batch):
        for other, parameters in units.items():
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            reached = [g is not None and bool(g.any()) for g in found]
            assert any(reached) == (other == unit), (unit, other)


def test_the_published_loss_trains_all_modules_through_locals_and_globals():
    learner, batch = TOP_GRID.build().learner, TOP_GRID.batch()
    ((unit, loss),) = learner.losses(batch)
    assert unit == "module_4"
    loss.backward()
    for stage in learner.encoder.stages:
        assert all(p.grad is not None and p.grad.any() for p in stage.parameters())


def test_candidates_are_a_location_and_all_of_the_other_images():
    """Eight images: grids of 4×4, and of 2×2 at the top."""
    found = {}
    for case in CASES:
        learner = case.build().learner
        assert not learner.uninformed_losses()
        list(learner.losses(case.batch()))
        found[case.name] = learner.uninformed_losses()
    small, large = math.log(1 + 7 * 4), math.log(1 + 7 * 16)
    assert found["mean"] == {"module_4": pytest.approx(small)}
    assert found["top_grid"] == {"module_4": pytest.approx(large)}
    assert list(found["greedy"].values()) == pytest.approx([large, large, large, small])


# -- what does not fit -----------------------------------------------------------------------------


def test_globals_of_the_top_grid_are_refused_where_it_is_no_smaller_than_the_grid_below():
    with pytest.raises(ConfigError, match="'resnet' has 7 and 7 rows"):
        case_of("top_grid", on=TINY[Modality.IMAGE], globals="top_grid")


def test_globals_of_the_top_grid_are_refused_where_there_is_no_grid_below():
    resnet = TINY[Modality.IMAGE]
    one = replace(resnet, options=resnet.options.model_copy(update={"blocks": (1,)}))
    with pytest.raises(ConfigError, match="'resnet' has 7 and 0 rows"):
        case_of("top_grid", on=one, globals="top_grid")
