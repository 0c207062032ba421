"""Methods on InfoNCE with the released code's draws: they train, and modules stay isolated."""

import math

import pytest
import torch

from gim_bench.contract import GradientFlow, Modality
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.settings.schema import Precision, Recompute, Schedule
from gim_bench.training.audit import audit, contradictions
from gim_bench.training.trainer import Trainer
from tests.conftest import build_tiny
from tests.tiny_suite import CPU

RELEASED = {
    Modality.IMAGE: InfoNCESettings(negatives_within=4, negatives_from="targets"),
    Modality.SPEECH: InfoNCESettings(
        prediction_steps=3,
        skip_rows=0,
        negatives=10,
        anchor_rows=8,
        negatives_within=2,
        negatives_from="permutations",
        targets_in_window=True,
    ),
}


def trainer(method: str, modality: Modality, **settings) -> Trainer:
    tiny = build_tiny(method, modality=modality, info_nce=RELEASED[modality], **settings)
    return Trainer(
        tiny.learner,
        learning_rate=1e-2,
        schedule=Schedule.INTERLEAVED,
        precision=Precision.FP32,
        device=CPU,
    )


@pytest.mark.parametrize(
    ("method", "modality"),
    [("gim", Modality.IMAGE), ("cpc", Modality.IMAGE), ("cpc", Modality.SPEECH)],
)
def test_training_lowers_the_loss_below_chance(method, modality, tiny_batch, tiny_speech):
    batch = {Modality.IMAGE: tiny_batch, Modality.SPEECH: tiny_speech}[modality]
    ours = trainer(method, modality)
    losses = [next(iter(ours.step(batch).values())).item() for _ in range(40)]
    chance = math.log(1 + RELEASED[modality].negatives)
    assert sum(losses[-5:]) / 5 < min(losses[0], chance) - 0.05


@pytest.mark.parametrize("modality", Modality)
def test_modules_of_gim_stay_isolated(modality, tiny_batch, tiny_speech):
    batch = {Modality.IMAGE: tiny_batch, Modality.SPEECH: tiny_speech}[modality]
    found = audit(trainer("gim", modality), batch, steps=1).isolation
    assert contradictions(found, flow=GradientFlow.ISOLATED) == []


def test_what_is_computed_again_in_pieces_has_the_same_loss(tiny_batch):
    """Pieces of a batch cut no group: the loss sees the whole batch."""
    plain, again = (
        trainer("gim", Modality.IMAGE, recompute=how)
        for how in (Recompute.NOTHING, Recompute.PIECES)
    )
    for (_, one), (_, other) in zip(
        plain.step(tiny_batch).items(), again.step(tiny_batch).items(), strict=True
    ):
        torch.testing.assert_close(one, other)
