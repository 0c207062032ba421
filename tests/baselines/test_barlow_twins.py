"""Barlow Twins on a ResNet with batch norm: heads of their own, noise, and how far losses reach.

The conformance tests run here with batch norm in the encoder.
"""

import pytest
import torch

from baselines.barlow_twins import BarlowTwins, BlockwiseBarlowTwins
from gim_bench.contract import GradientFlow, eval_mode
from gim_bench.encoders.batch_norm_resnet import BatchNormResNet
from gim_bench.objectives.barlow_twins import Pooling
from gim_bench.testing.cases import Case, encoder_case, encodings_of, method_cases
from gim_bench.testing.test_method import *  # noqa: F403 - pytest runs the tests by their names

RESNET = encoder_case(
    BatchNormResNet,
    options={"depth": 18, "width": 2, "stem": "small", "zero_init_residual": False},
    shape=(3, 8, 8),
)


def case_of(name, *, method=BlockwiseBarlowTwins, **options) -> Case:
    """The method with its own gradient flow on a ResNet-18."""
    case, _ = method_cases(
        method, name=name, encoders=[RESNET], options=options, objective={"scale": 1.0}
    )
    return case


BLOCKWISE = case_of("blockwise", projector=[8, 6])
END_TO_END = case_of("end_to_end", method=BarlowTwins, projector=[8, 6])
CASES = [BLOCKWISE, END_TO_END]


def grids_of(learner, batch):
    """The grids of view 1 that every head is given, by unit."""
    found = {}
    for name, head in learner.heads.items():
        head.register_forward_pre_hook(lambda _, given, name=name: found.update({name: given[0]}))
    list(learner.losses(batch))
    return found


# -- heads -----------------------------------------------------------------------------------------


def test_projectors_of_all_blocks_start_alike_and_share_no_weight():
    learner = BLOCKWISE.build().learner
    first, *others = (list(head.projector.parameters()) for head in learner.heads.values())
    assert len(others) == 3
    for other in others:
        for ours, theirs in zip(first, other, strict=True):
            assert torch.equal(ours, theirs)
            assert ours is not theirs


def test_sizes_follow_from_the_top_module():
    """On ResNet-50 of width 64 they are the paper's: 2048, and 8192-8192-8192."""
    top = 16
    for head in case_of("sizes").build().learner.heads.values():
        sizes = [w.shape[0] for name, w in head.named_parameters() if w.dim() in {2, 4}]
        assert sizes == [top, 4 * top, 4 * top, 4 * top]


@pytest.mark.parametrize("pooling", Pooling, ids=str)
def test_every_pooling_trains(pooling):
    learner = case_of("pooled", pooling=pooling, projector=[8, 6]).build().learner
    for _, loss in learner.losses(BLOCKWISE.batch()):
        loss.backward()
    assert all(parameter.grad is not None for parameter in learner.parameters())


# -- noise -----------------------------------------------------------------------------------------


def test_noise_reaches_head_and_next_block_with_the_share_of_the_outputs_deviation():
    """Block 1 has the noise alone; block 2 has a noisy input, and noise of its own."""
    case = case_of("noisy", noise=0.25, projector=[8, 6])
    learner, batch = case.build().learner, case.batch()
    torch.manual_seed(0)
    noisy = grids_of(learner, batch)
    clean = grids_of(case_of("clean", noise=0, projector=[8, 6]).build().learner, batch)
    added = noisy["module_1"] - clean["module_1"]
    assert added.std().item() == pytest.approx(0.25 * clean["module_1"].std().item(), rel=0.1)
    assert abs(added.mean().item()) < 0.1 * added.std().item()
    second = learner.encoder.stages[1](noisy["module_1"].permute(0, 3, 1, 2))
    own = noisy["module_2"] - second.permute(0, 2, 3, 1)
    assert own.std().item() == pytest.approx(0.25 * second.std().item(), rel=0.2)


def test_nothing_is_noisy_in_evaluation():
    """Neither held-out losses nor what a probe reads."""
    case = case_of("noisy", noise=5.0, projector=[8, 6])
    learner, batch = case.build().learner, case.batch()
    with eval_mode(learner):
        given = grids_of(learner, batch)
        expected = encodings_of(learner.encoder, batch.inputs)
    for grid, clean in zip(given.values(), expected, strict=True):
        torch.testing.assert_close(grid, clean, rtol=1e-12, atol=1e-12)
    features = learner.features(batch.inputs)["module_1"]
    torch.testing.assert_close(features[:, 0], expected[0].mean(dim=(1, 2)))


def test_the_end_to_end_twin_has_no_noise_and_no_convolution_before_its_projector():
    learner = END_TO_END.build().learner
    (head,) = learner.heads.values()
    assert learner.noise == 0
    assert not list(head.pool.parameters())


# -- what a probe reads ----------------------------------------------------------------------------


def test_a_probe_reads_the_head_where_a_row_says_so():
    """The input of the projector, in eval mode."""
    case = case_of("read", probe_reads="head", projector=[8, 6])
    learner, batch = case.build().learner, case.batch()
    found = learner.features(batch.inputs)
    with eval_mode(learner), torch.no_grad():
        grids = encodings_of(learner.encoder, batch.inputs)
        for (unit, head), grid in zip(learner.heads.items(), grids, strict=True):
            assert torch.equal(found[unit][:, 0], head.pooled(grid))


def test_modules_without_a_head_are_read_as_in_every_method():
    (case,) = (
        case
        for case in method_cases(
            BlockwiseBarlowTwins,
            name="end to end",
            encoders=[RESNET],
            options={"probe_reads": "head", "width": 5},
            objective={},
        )
        if case.gradient_flow is GradientFlow.END_TO_END
    )
    features = case.build().learner.features(case.batch().inputs)
    assert [feature.shape[2] for feature in features.values()] == [2, 4, 8, 5]


# -- how far losses reach --------------------------------------------------------------------------


def test_the_loss_of_a_block_leaves_the_inputs_and_all_blocks_below_without_gradient():
    case = case_of("isolated", projector=[8, 6])
    learner, batch = case.build().learner, case.batch()
    for number, (_, loss) in enumerate(learner.losses(batch)):
        learner.zero_grad(set_to_none=True)
        loss.backward()
        reached = [any(p.grad is not None for p in s.parameters()) for s in learner.encoder.stages]
        assert reached == [m == number for m in range(4)]
