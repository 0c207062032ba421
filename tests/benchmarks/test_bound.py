"""The bound of a step: operations and bytes, counted by hand."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.bound import copies, products, without_padding, work_of
from benchmarks.test_training_step import batch_of, trainer_of
from gim_bench.contract import Modality
from gim_bench.settings.base import Precision


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "taps"),
    [
        (3, 1, 1, 10),  # along an axis of 4: 2 + 3 + 3 + 2
        (3, 2, 1, 5),  # 2 + 3
        (2, 2, 0, 4),
        (1, 1, 0, 4),
    ],
)
@pytest.mark.parametrize("of_input", [True, False])
def test_taps_on_padding_are_not_counted(kernel, stride, padding, taps, of_input):
    images = torch.randn(2, 5, 4, 4, requires_grad=of_input)
    kernels = torch.randn(3, 5, kernel, kernel, requires_grad=True)
    with without_padding() as counter:
        F.conv2d(images, kernels, stride=stride, padding=padding).sum().backward()
    passes = 3 if of_input else 2  # there, to the kernels, and to the input
    assert counter.get_total_flops() == passes * 2 * (2 * 5 * 3) * taps**2


def test_a_steps_work_grows_with_its_examples_and_leaves_no_gradient():
    trainer = trainer_of("gim", Modality.IMAGE)
    of_one, of_two = (work_of(trainer, batch_of(size, Modality.IMAGE)) for size in (1, 2))
    assert of_one.flops == pytest.approx(of_two.flops)
    assert of_one.flops == pytest.approx(1036e9 / 16, rel=1e-2)
    assert of_one.kept_bytes == pytest.approx(of_two.kept_bytes, rel=0.1)
    assert all(weights.grad is None for weights in trainer.learner.parameters())


def test_the_bound_is_what_was_counted():
    with without_padding() as counter:
        products(8e9, precision=Precision.FP32)()
    assert counter.get_total_flops() == pytest.approx(8e9, rel=0.1)
    copied = copies(3e6)()
    assert copied.nbytes == copied.sum() == 3_000_000
