"""Cross-entropy on what the probe reads: the mean over steps, or every step."""

import math

import pytest
import torch

from gim_bench import seeding
from gim_bench.contract import Target
from gim_bench.objectives.cross_entropy import CrossEntropyHead

LABELS = torch.tensor([0, 1, 2, 3])
STEPS, DIM = 9, 6


def head_with(*, weight: torch.Tensor, per_step: bool = False) -> CrossEntropyHead:
    classes, dim = weight.shape
    target = Target(name="class", classes=[str(i) for i in range(classes)], per_step=per_step)
    head = CrossEntropyHead(dim, target=target).to(weight.dtype)
    head.classifier.weight = torch.nn.Parameter(weight)
    torch.nn.init.zeros_(head.classifier.bias)
    return head


def normal(*shape: int, stream: int = 0) -> torch.Tensor:
    draw = seeding.generator("tests", "cross entropy", stream)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def written_out(scores: list[float], label: int) -> float:
    """-log softmax(scores)[label]."""
    return math.log(sum(math.exp(score) for score in scores)) - scores[label]


# -- one label for an example --------------------------------------------------------------------


def test_an_uninformed_classifier_scores_the_log_of_the_classes():
    head = head_with(weight=torch.zeros(4, DIM, dtype=torch.float64))
    loss = head(normal(4, STEPS, DIM), LABELS)
    assert loss.item() == pytest.approx(math.log(4), rel=1e-12)


def test_a_sure_and_right_classifier_approaches_zero():
    z = torch.eye(4).view(4, 1, 4).expand(4, STEPS, 4)
    assert head_with(weight=100 * torch.eye(4))(z, LABELS).item() < 1e-6


def test_a_sure_and_wrong_classifier_pays_its_margin():
    z = torch.eye(4).view(4, 1, 4).expand(4, STEPS, 4)
    assert head_with(weight=100 * torch.eye(4))(z, LABELS.roll(1)).item() == pytest.approx(100)


def test_the_loss_equals_the_formula_written_out():
    z, weight = normal(4, STEPS, DIM), normal(4, DIM, stream=1)
    expected = 0.0
    for example, label in enumerate(LABELS.tolist()):
        mean = [z[example, :, d].sum().item() / STEPS for d in range(DIM)]
        scores = [sum(w * m for w, m in zip(row, mean, strict=True)) for row in weight.tolist()]
        expected += written_out(scores, label) / 4
    assert head_with(weight=weight)(z, LABELS).item() == pytest.approx(expected, rel=1e-10)


def test_the_order_of_the_steps_does_not_matter():
    """The classifier reads their mean, as the probe does."""
    z, head = normal(4, STEPS, DIM), head_with(weight=normal(4, DIM, stream=1))
    assert head.logits(z).shape == (4, 1, 4)
    assert torch.allclose(head.logits(z), head.logits(z.flip(1)))


def test_scores_in_bf16_are_normalised_in_fp32():
    head = head_with(weight=torch.zeros(4, DIM, dtype=torch.bfloat16))
    assert head(torch.ones(4, STEPS, DIM, dtype=torch.bfloat16), LABELS).dtype is torch.float32


# -- a label for every step ----------------------------------------------------------------------


def step_labels() -> torch.Tensor:
    """Four classes on 4×9 steps; some steps of every example, and all of the last, have none."""
    draw = seeding.generator("tests", "step labels")
    labels = torch.randint(-1, 4, (4, STEPS), generator=draw)
    labels[:, 0] = -1
    labels[3] = -1
    return labels


@pytest.mark.parametrize("classes", [2, 41])
def test_equal_scores_of_every_step_give_the_log_of_the_classes(classes):
    head = head_with(weight=torch.zeros(classes, DIM, dtype=torch.float64), per_step=True)
    labels = step_labels().clamp(max=1)
    assert head(normal(4, STEPS, DIM), labels).item() == pytest.approx(math.log(classes), rel=1e-12)


def test_the_loss_of_steps_is_the_mean_over_the_labelled_ones():
    z, weight, labels = normal(4, STEPS, DIM), normal(4, DIM, stream=1), step_labels()
    expected = [
        written_out((weight @ z[example, step]).tolist(), int(labels[example, step]))
        for example in range(4)
        for step in range(STEPS)
        if labels[example, step] != -1
    ]
    assert 0 < len(expected) < 4 * STEPS
    loss = head_with(weight=weight, per_step=True)(z, labels)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-10)


def test_every_step_has_scores_of_its_own():
    z, weight = normal(4, STEPS, DIM), normal(4, DIM, stream=1)
    scores = head_with(weight=weight, per_step=True).logits(z)
    torch.testing.assert_close(scores, torch.einsum("bsd,cd->bsc", z, weight))


def test_unlabelled_steps_get_no_gradient():
    z, labels = normal(4, STEPS, DIM).requires_grad_(), step_labels()
    head_with(weight=normal(4, DIM, stream=1), per_step=True)(z, labels).backward()
    assert torch.equal(z.grad.abs().sum(dim=-1) > 0, labels != -1)


def test_without_any_label_the_loss_is_zero_and_moves_nothing():
    head = head_with(weight=normal(4, DIM, stream=1), per_step=True)
    loss = head(normal(4, STEPS, DIM), torch.full((4, STEPS), -1))
    loss.backward()
    assert loss.item() == 0.0
    assert not head.classifier.weight.grad.any()


@pytest.mark.parametrize("per_step", [False, True])
def test_the_gradient_is_that_of_finite_differences(per_step):
    head = head_with(weight=normal(4, DIM, stream=1), per_step=per_step)
    labels = step_labels() if per_step else LABELS
    z = normal(4, STEPS, DIM).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: head(value, labels), (z,))
