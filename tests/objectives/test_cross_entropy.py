"""Cross-entropy on the mean encoding."""

import math

import pytest
import torch

from gim_bench import seeding
from gim_bench.objectives.cross_entropy import CrossEntropyHead

LABELS = torch.tensor([0, 1, 2, 3])


def head_with(*, weight: torch.Tensor) -> CrossEntropyHead:
    classes, dim = weight.shape
    head = CrossEntropyHead(dim, classes=classes).to(weight.dtype)
    head.classifier.weight = torch.nn.Parameter(weight)
    torch.nn.init.zeros_(head.classifier.bias)
    return head


def test_an_uninformed_classifier_scores_the_log_of_the_classes():
    loss = head_with(weight=torch.zeros(4, 6, dtype=torch.float64))(
        torch.ones(4, 3, 3, 6, dtype=torch.float64), LABELS
    )
    assert loss.item() == pytest.approx(math.log(4), rel=1e-12)


def test_a_sure_and_right_classifier_approaches_zero():
    z = torch.eye(4).view(4, 1, 1, 4).expand(4, 3, 3, 4)
    assert head_with(weight=100 * torch.eye(4))(z, LABELS).item() < 1e-6


def test_a_sure_and_wrong_classifier_pays_its_margin():
    z = torch.eye(4).view(4, 1, 1, 4).expand(4, 3, 3, 4)
    assert head_with(weight=100 * torch.eye(4))(z, LABELS.roll(1)).item() == pytest.approx(100)


def test_the_loss_equals_the_formula_written_out():
    draw = seeding.generator("tests", "cross entropy")
    z = torch.randn(4, 3, 3, 6, generator=draw, dtype=torch.float64)
    weight = torch.randn(4, 6, generator=draw, dtype=torch.float64)
    expected = 0.0
    for image, label in enumerate(LABELS.tolist()):
        mean = [z[image, :, :, d].sum().item() / 9 for d in range(6)]
        scores = [sum(w * m for w, m in zip(row, mean, strict=True)) for row in weight.tolist()]
        expected += math.log(sum(math.exp(s) for s in scores)) - scores[label]
    loss = head_with(weight=weight)(z, LABELS)
    assert loss.item() == pytest.approx(expected / 4, rel=1e-10)


def test_the_place_of_a_patch_does_not_matter():
    """The classifier reads the mean over the grid, as the probe does."""
    draw = seeding.generator("tests", "places")
    z = torch.randn(4, 3, 3, 6, generator=draw, dtype=torch.float64)
    head = head_with(weight=torch.randn(4, 6, generator=draw, dtype=torch.float64))
    assert torch.allclose(head.logits(z), head.logits(z.flip(1, 2)))


def test_scores_in_bf16_are_normalised_in_fp32():
    head = head_with(weight=torch.zeros(4, 6, dtype=torch.bfloat16))
    assert head(torch.ones(4, 3, 3, 6, dtype=torch.bfloat16), LABELS).dtype is torch.float32
