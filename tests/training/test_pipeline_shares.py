"""How the units of a pipeline are shared out to its workers."""

import pytest

from gim_bench.training.pipeline.trainer import shared_out

UNITS = [f"module_{number}" for number in range(1, 7)]


@pytest.mark.parametrize(
    ("units", "workers", "sizes"),
    [(3, None, [1, 1, 1]), (3, 2, [2, 1]), (3, 9, [1, 1, 1]), (6, 4, [2, 1, 2, 1]), (6, 1, [6])],
)
def test_units_are_shared_out_as_equally_as_they_can_be(units, workers, sizes):
    found = shared_out(UNITS[:units], workers=workers)
    assert [len(share) for share in found] == sizes
    assert [unit for share in found for unit in share] == UNITS[:units]
