"""The PixelCNN: rows below stay unseen, and two-row kernels are the masked 3×3 ones."""

import pytest
import torch

from gim_bench import seeding
from gim_bench.encoders.pixelcnn import PixelCNN
from gim_bench.objectives.info_nce import InfoNCEHead, InfoNCESettings
from tests.oracles.pixelcnn import TextbookPixelCNN, copy_weights

DIM, ROWS, COLUMNS = 4, 7, 5


def pixelcnn(*, layers: int = 4) -> PixelCNN:
    with seeding.weights_from("tests", "pixelcnn"):
        return PixelCNN(DIM, layers=layers).double()


def encodings() -> torch.Tensor:
    draw = seeding.generator("tests", "encodings")
    return torch.randn(2, ROWS, COLUMNS, DIM, generator=draw, dtype=torch.float64)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_it_equals_the_masked_network_of_the_released_code(layers):
    ours = pixelcnn(layers=layers)
    textbook = TextbookPixelCNN(DIM, layers=layers).double()
    copy_weights(source=ours, target=textbook)
    z = encodings()
    torch.testing.assert_close(ours(z), textbook(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("row", range(ROWS))
def test_the_context_of_a_row_sees_its_own_row_and_those_above_but_none_below(row):
    """Each of the four layers looks one row further up."""
    z = encodings().requires_grad_()
    pixelcnn()(z)[:, row].sum().backward()
    seen = z.grad.abs().sum(dim=(0, 2, 3)) > 0
    assert seen.tolist() == [row - 4 <= other <= row for other in range(ROWS)]


def test_the_context_sees_to_both_sides_in_its_own_row():
    """Columns are not masked: the task predicts downwards only."""
    z = encodings().requires_grad_()
    pixelcnn()(z)[:, 3, 2].sum().backward()
    assert (z.grad[:, 3].abs().sum(dim=-1) > 0).all()


def test_images_of_a_batch_do_not_see_each_other():
    z = encodings().requires_grad_()
    pixelcnn()(z)[0].sum().backward()
    assert z.grad[0].any()
    assert not z.grad[1].any()


def test_the_grid_keeps_its_shape_and_orientation():
    """A change at one place moves the context there, so rows and columns are not swapped."""
    network, z = pixelcnn(), encodings()
    changed = z.clone()
    changed[0, 5, 1] += 1.0
    moved = (network(z) != network(changed)).any(dim=-1)
    assert network(z).shape == z.shape
    assert moved[0, 5, 1]
    assert not moved[0, :5].any()
    assert not moved[1].any()


def test_the_released_model_s_134_million_are_ours_the_masked_third_and_the_loss_head():
    """103,844,864 here + 25,165,824 behind the mask + 5,242,880 in W_1 … W_5 = 134,253,568."""
    with torch.device("meta"):
        ours = PixelCNN(1024)
        textbook = TextbookPixelCNN(1024)
        head = InfoNCEHead(
            z_dim=1024, c_dim=1024, settings=InfoNCESettings(), generator=torch.Generator()
        )
    masked = 4 * 3 * 2 * 1024 * 1024  # four layers, the bottom three of nine weights, 2d × d
    assert parameters(ours) == 103_844_864
    assert parameters(textbook) == parameters(ours) + masked == 129_010_688
    assert parameters(textbook) + parameters(head) == 134_253_568


def test_all_weights_are_trained_but_the_last_layer_s_way_to_a_layer_that_is_not_there():
    """The top layer's vertical output feeds nothing, as in the released code."""
    network = pixelcnn()
    network(encodings()).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == ["layers.3.vertical_residual.weight", "layers.3.vertical_residual.bias"]
