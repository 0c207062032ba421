import pytest

from tests.endurance.slow_suite import slow_suite_in


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a suite of one slow method, which a plug-in brings."""
    return slow_suite_in(tmp_path, monkeypatch)
