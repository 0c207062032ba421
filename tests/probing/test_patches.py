"""The patches that excite neurons most, and the part of an image that an encoding sees."""

import pytest
import torch
from torch import nn

from gim_bench.contract import Batch
from gim_bench.encoders.images import ImageEncoder, PatchEncoder
from gim_bench.encoders.resnet import ResNetEncoder, ResNetSettings
from gim_bench.probing.patches import Box, Ranking, most_exciting, receptive_fields, widest

CPU = torch.device("cpu")
TEMPLATES = torch.tensor([[[1.0, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 1], [0, 0]]])  # by neuron


class Likeness(nn.Module):
    """Neuron k of a 2×2 patch: how near the patch is to template k, 0 for the template itself."""

    def forward(self, patches):
        distances = (patches - TEMPLATES).square().sum(dim=(2, 3))
        return -distances[:, :, None, None]


class Templates(PatchEncoder):
    """Patches of 2×2 pixels beside each other, with a neuron for each template."""

    patch_size = patch_stride = 2
    dims = (len(TEMPLATES),)

    def __init__(self):
        nn.Module.__init__(self)
        self.stages = nn.ModuleList([Likeness()])

    @classmethod
    def rows(cls, options, *, shape):
        return [shape[1] // 2]


class Convolutions(ImageEncoder):
    """Two modules that see 3 and then 7 rows and columns, and less at the edges of the image."""

    def __init__(self):
        nn.Module.__init__(self)
        self.stages = nn.ModuleList(
            [nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Conv2d(2, 2, 3, padding=1)]
        )

    rows = Templates.rows


def in_batches(images, *, size):
    return [Batch(inputs=piece, labels={}) for piece in images.split(size)]


def noise(images=12):
    return torch.rand(images, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.3


@pytest.mark.parametrize("batch_size", [12, 5, 1])
def test_a_neuron_that_responds_to_a_patch_finds_exactly_this_patch(batch_size):
    """Template k is planted into image 2k + 1 at place 4k of the 3×3 grid."""
    images = noise()
    for k, template in enumerate(TEMPLATES):
        row, column = divmod(4 * k, 3)
        images[2 * k + 1, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = template
    (found,) = most_exciting(Templates(), in_batches(images, size=batch_size), patches=3)
    for k in range(len(TEMPLATES)):
        assert found.values[k, 0] == 0
        assert found.of_neuron(k)[0] == (2 * k + 1, 4 * k)


def test_patches_come_strongest_first_and_agree_with_a_sort_of_all_images():
    images = noise()
    (found,) = most_exciting(Templates(), in_batches(images, size=5), patches=4)
    (grid,) = Templates().grids(images)
    strongest, _ = grid.flatten(1, 2).max(dim=1)
    assert torch.equal(found.values, strongest.sort(dim=0, descending=True).values[:4].T)


def test_an_image_gives_at_most_one_patch():
    images = noise()
    images[7] = TEMPLATES[0].repeat(3, 3)
    (found,) = most_exciting(Templates(), in_batches(images, size=5), patches=3)
    numbers = [image for image, _ in found.of_neuron(0)]
    assert numbers[0] == 7
    assert len(set(numbers)) == 3


@pytest.mark.parametrize("batch_size", [12, 5, 1])
def test_of_equal_patches_the_first_image_and_its_first_place_come_first(batch_size):
    images = torch.full((12, 1, 6, 6), 0.5)
    (found,) = most_exciting(Templates(), in_batches(images, size=batch_size), patches=3)
    assert [found.of_neuron(k) for k in range(3)] == [[(0, 0), (1, 0), (2, 0)]] * 3


def test_fewer_images_than_patches_give_a_patch_each():
    (found,) = most_exciting(Templates(), in_batches(noise(2), size=2), patches=8)
    assert found.values.shape == (3, 2)


def test_neurons_are_chosen_by_their_variance_over_all_places():
    grids = torch.randn(9, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    grids *= torch.tensor([1.0, 4, 2, 8, 3])
    ranking = Ranking(2)
    for piece in grids.split(4):
        ranking.add(piece)
    expected = grids.double().flatten(0, 2).var(dim=0, correction=0)
    assert torch.allclose(ranking.result().variance, expected)
    assert widest(ranking.result(), neurons=3) == [3, 1, 4]


def test_the_encoder_looks_at_patches_in_eval_mode_and_keeps_its_mode():
    encoder = Templates()
    encoder.stages.append(nn.Dropout(0.5))
    encoder.train()
    first, second = (
        most_exciting(encoder, in_batches(noise(), size=5), patches=2)[1] for _ in range(2)
    )
    assert torch.equal(first.values, second.values)
    assert encoder.training


def test_the_field_of_a_patch_encoder_is_the_patch():
    settings = ResNetSettings(kind="resnet", width=2, blocks=(1, 1), patch_size=8, patch_overlap=4)
    encoder = ResNetEncoder(settings, shape=(1, 24, 24))
    patches = [Box(y, x, y + 8, x + 8) for y in range(0, 17, 4) for x in range(0, 17, 4)]
    assert receptive_fields(encoder, shape=(1, 24, 24), device=CPU) == [patches, patches]


def test_the_field_of_convolutions_grows_with_depth_and_ends_with_the_image():
    lower, upper = receptive_fields(Convolutions(), shape=(1, 8, 8), device=CPU)
    assert lower[5] == Box(1, 1, 4, 4)
    assert lower[0] == Box(0, 0, 2, 2)
    assert upper[5] == Box(0, 0, 6, 6)
    assert upper[10] == Box(1, 1, 8, 8)


def test_a_weight_of_zero_is_part_of_the_field():
    encoder = Convolutions()
    nn.init.zeros_(encoder.stages[0].weight)
    assert receptive_fields(encoder, shape=(1, 8, 8), device=CPU)[0][5] == Box(1, 1, 4, 4)
