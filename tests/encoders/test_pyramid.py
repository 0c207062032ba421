"""The pyramid: what a tile gives, the whole image gives at its places."""

import pytest
import torch

from gim_bench.encoders.pyramid import Pyramid, PyramidSettings
from gim_bench.encoders.tiles import Reach, Tile, composed, spans
from gim_bench.errors import ConfigError
from gim_bench.settings.suites import parse
from tests.encoders.modules import activations_of

ROWS, COLUMNS = 150, 171


def pyramid(**settings):
    torch.manual_seed(0)
    options = PyramidSettings(kind="pyramid", width=4, **settings)
    return Pyramid(options, shape=(1, ROWS, COLUMNS))


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize(
    ("kernels", "strides"), [((8, 4, 4), (4, 2, 2)), ((5, 3), (2, 3)), ((2, 2), (2, 2))]
)
def test_every_module_encodes_a_tile_as_it_encodes_the_whole_image(kernels, strides, size):
    encoder = pyramid(kernels=kernels, strides=strides)
    encoder.stages = torch.nn.Sequential(*encoder.stages)
    image = torch.randn(1, 1, ROWS, COLUMNS)
    with torch.no_grad():
        for module, whole in enumerate(activations_of(encoder, image)):
            reach = composed(encoder.reaches[: module + 1])
            assert whole.shape[2:] == (reach.outputs(ROWS), reach.outputs(COLUMNS))
            # The first tile, one in the middle, and the last, which is smaller.
            rows, columns = (list(spans(side, size=size)) for side in whole.shape[2:])
            for number in (0, len(rows) // 2, -1):
                (a, b), (c, d) = rows[number], columns[number]
                down, across = reach.tile((a, b), ROWS), reach.tile((c, d), COLUMNS)
                halo = image[:, :, slice(*down.inputs), slice(*across.inputs)]
                tile = encoder.stages[: module + 1](halo)
                assert tile.shape == whole[:, :, a:b, c:d].shape
                assert (tile - whole[:, :, a:b, c:d]).abs().max() < 1e-6


def test_an_encoding_at_the_top_sees_44_pixels_and_its_neighbour_is_16_pixels_away():
    reaches = Pyramid.reaches_of(PyramidSettings(kind="pyramid"))
    assert composed(reaches) == Reach(field=44, stride=16)


def test_a_tile_of_a_padded_module_reads_its_field_and_what_padding_spoils_at_the_cut():
    """Outputs 3 to 5 see rows 4 to 12; the part begins with output 2, which sees padding."""
    reach = Reach(field=5, stride=2, padding=2)
    assert reach.tile((3, 6), 100) == Tile(inputs=(4, 13), kept=slice(1, 4))
    assert reach.tile((0, 2), 100) == Tile(inputs=(0, 5), kept=slice(0, 2))
    assert reach.tile((48, 50), 100) == Tile(inputs=(94, 100), kept=slice(1, 3))


def test_a_place_below_the_field_of_an_encoding_changes_nothing():
    encoder = pyramid()
    image = torch.randn(1, 1, 60, 60)
    other = image.clone()
    other[:, :, 44:] += 1
    with torch.no_grad():
        one, two = (activations_of(encoder, x)[-1][0, :, 0, 0] for x in (image, other))
        other[:, :, 43] += 1
        three = activations_of(encoder, other)[-1][0, :, 0, 0]
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_spans_cover_all_rows_once():
    assert list(spans(7, size=3)) == [(0, 3), (3, 6), (6, 7)]


def test_a_kernel_without_a_stride_is_refused_in_one_line():
    table = {"kind": "pyramid", "kernels": [8, 4], "strides": [4]}
    with pytest.raises(ConfigError, match="kernels and strides must have the same length"):
        parse(PyramidSettings, table, origin="suite x", name="encoder")
