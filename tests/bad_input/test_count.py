"""How much bad input the tests of this folder feed."""

from tests.bad_input import (  # noqa: F401 - each promises its inputs when it is imported
    test_audio,
    test_files,
    test_images,
    test_records,
    test_suites,
)
from tests.bad_input.feed import PROMISED


def test_three_hundred_bad_inputs_or_more_are_fed_in_every_run():
    """Each test fails where it feeds fewer than it promises."""
    assert sum(PROMISED.values()) >= 300
