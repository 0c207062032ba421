"""What tests of the API share."""

import jaxtyping
import pytest


@pytest.fixture(scope="module")
def sizes_need_not_be_ints():
    """A trace passes symbols for sizes, which the checks of the tests refuse as no ints."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def types_unchecked():
    """Arguments of wrong types reach the package, as they do outside tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
