"""The notebook of the documentation runs from top to bottom, in a kernel of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gim_bench.cells.run import run_cell
from gim_bench.records.folder import RunsFolder
from tests.tiny_suite import tiny_bench, tiny_cell, tiny_suite

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "python.ipynb"

EXECUTE = """
import sys, nbclient, nbformat

notebook = nbformat.read(sys.argv[1], as_version=4)
nbformat.validate(notebook)
nbclient.NotebookClient(notebook, timeout=600).execute()
nbformat.write(notebook, "executed.ipynb")
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The code cells of the notebook after a run in a folder with finished cells."""
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    folder = tmp_path_factory.mktemp("notebook")
    suite = tiny_suite(folder)
    bench = tiny_bench(suite)
    for method in ("gim", "random_init"):
        run_cell(tiny_cell(suite, method), bench, runs=RunsFolder(folder / "runs"))
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, NOTEBOOK],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "IPYTHONDIR": str(folder / "ipython")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cells = json.loads((folder / "executed.ipynb").read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def kinds(cell):
    return {kind for output in cell["outputs"] for kind in output.get("data", {})}


def test_each_cell_ran_in_turn_and_shows_something(executed):
    assert [cell["execution_count"] for cell in executed] == list(range(1, len(executed) + 1))
    assert all(cell["outputs"] for cell in executed)


def test_the_figure_is_a_picture_and_the_last_cell_lists_what_was_exported(executed):
    assert any("image/png" in kinds(cell) for cell in executed)
    assert "'encoder.safetensors'" in "".join(executed[-1]["outputs"][-1]["data"]["text/plain"])


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
