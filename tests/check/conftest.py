"""Checks are made as from a clean checkout, whatever the one that the tests are run in."""

from collections.abc import Iterator

import pytest

from gim_bench.records import provenance
from tests.check.cells import COMMITTED


@pytest.fixture(scope="module", autouse=True)
def clean_checkout() -> Iterator[None]:
    """The code that is running, as far as git is asked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "git_state", lambda: COMMITTED)
        yield
