"""`list` answers at once with every name and a summary of it."""

import subprocess
import sys

import pytest

from gim_bench import registry
from gim_bench.records.metrics import METRICS
from gim_bench.settings.shipped import shipped_suites

KNOWN = {
    "suites": shipped_suites,
    "methods": registry.methods,
    "encoders": registry.encoders,
    "datasets": registry.datasets,
    "metrics": lambda: METRICS,
}


@pytest.mark.parametrize("kind", KNOWN)
def test_every_name_is_listed_with_a_summary(kind, gim_bench):
    answer = gim_bench("list", kind)
    rows = [line.split(maxsplit=1) for line in answer.out.splitlines()]
    assert {name for name, _ in rows} == set(KNOWN[kind]())
    assert all(len(summary) > 10 for _, summary in rows)


def test_a_list_of_nothing_in_particular_is_a_list_of_everything(gim_bench):
    parts = [f"{kind}:\n{gim_bench('list', kind).out}" for kind in KNOWN]
    assert gim_bench("list").out == "\n".join(parts)


@pytest.mark.parametrize("arguments", [[], *([kind] for kind in KNOWN)], ids=str)
def test_a_list_imports_no_heavy_library_and_reads_no_settings(arguments):
    """Each of these takes longer to import than the answer may take."""
    code = (
        "import sys\n"
        "from gim_bench.cli.main import main\n"
        f"sys.argv[1:] = ['list', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit as ending:\n    assert ending.code == 0\n"
        "heavy = {'torch', 'numpy', 'mlflow', 'optuna', 'rich', 'gim_bench.settings.schema'}\n"
        "found = heavy & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=600)
