"""Facts besides seconds are printed below the table; small sizes where nothing is timed."""

import pytest


@pytest.fixture(scope="session")
def tried_only(pytestconfig: pytest.Config) -> bool:
    """Whether nothing is timed (--benchmark-disable), so that the smallest sizes are enough."""
    return pytestconfig._benchmarksession.disabled  # noqa: SLF001 - no public name


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    noted = [bench for bench in getattr(session, "benchmarks", []) if bench.extra_info]
    if noted:
        terminalreporter.section("also measured")
    for bench in noted:
        facts = ", ".join(f"{name} {_shown(name, x)}" for name, x in bench.extra_info.items())
        terminalreporter.write_line(f"{bench.fullname.partition('/')[2]}: {facts}")


def _shown(name: str, value: object) -> str:
    return (
        f"{value / 1e9:.2f} GB" if name.endswith("bytes") and isinstance(value, int) else str(value)
    )
