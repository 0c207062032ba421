"""A message in one line where the conformance tests are run without their plugin."""

import pytest

from gim_bench.testing.plugin import USAGE


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Raises: UsageError without the plugin, because the tests then have no cases."""
    if not config.pluginmanager.hasplugin("gim_bench.testing"):
        raise pytest.UsageError(USAGE)
