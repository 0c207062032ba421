"""Says in one line what is missing where these tests are run without their plugin."""

import pytest

from gim_bench.testing.plugin import USAGE


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Raises: UsageError, for without the plugin the tests have no cases."""
    if not config.pluginmanager.hasplugin("gim_bench.testing"):
        raise pytest.UsageError(USAGE)
