"""The description of a run on its page in MLflow: protocol, deviations, and the command."""

import shlex
from collections.abc import Sequence
from functools import cache

from gim_bench.records.record import Record
from gim_bench.settings.schema import Deviation
from gim_bench.settings.shipped import shipped_suites
from gim_bench.settings.suites import load_suite


def described(record: Record, *, seeds: int) -> str:
    """Markdown on the cells of a record's method with the first `seeds` seeds."""
    deviations = [
        f"- {each.about}: {each.ours} (paper: {each.paper}; released code: {each.released})"
        for each in _deviations(record.suite)
    ]
    # A record holds the name of a suite, not the place of the suite's file.
    suite = record.suite if record.suite in shipped_suites() else f"./{record.suite}.toml"
    command = (
        f"python -m gim_bench run --suite {shlex.quote(suite)} "
        f"--method {shlex.quote(record.method)} --seeds {seeds}"
    )
    parts = [
        record.protocol,
        record.error,
        "\n".join(["**Deviations**", "", *deviations]) if deviations else "",
        f"**Command**, where the parameters are the suite's own:\n\n    {command}",
    ]
    return "\n\n".join(filter(None, parts))


@cache
def _deviations(suite: str) -> Sequence[Deviation]:
    """The known deviations of a shipped suite; those of other suites are not known here."""
    return load_suite(suite).deviations if suite in shipped_suites() else ()
