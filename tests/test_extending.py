"""The package of docs/extending.md runs as it stands on the page, from its entry points."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
SMALL = (
    "training.epochs=2",
    "training.batch_size=16",
    "encoder.widths=[4, 8]",
    "method.vicreg.projection=16",
)
FEW = ("dataset.unlabelled_crops=20", "dataset.train_crops=10", "dataset.test_crops=5")


def files_on_the_page() -> dict[str, str]:
    """{path: content} of the page's blocks that begin with the path of a file."""
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return dict(blocks)


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A folder outside the checkout with the package, installed there with its entry points."""
    folder = tmp_path_factory.mktemp("site")
    files = files_on_the_page()
    for path, content in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(content, encoding="utf-8")
    project = tomllib.loads(files["pyproject.toml"])["project"]
    name, version = project["name"], project["version"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = [
        f"[{group}]\n" + "\n".join(f"{point} = {target}" for point, target in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    return folder


def python(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that finds the package as an installed one, in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=package,
        env=os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def conformance_lines() -> list[str]:
    """The page's commands that test what the package brings."""
    return re.findall(r"^python -m (pytest .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def run(package: Path, *overrides: str, methods: tuple[str, ...] = ()) -> list[dict]:
    arguments = ["run", "--suite", "./mine.toml", "--no-tracking", "--json", "--device", "cpu"]
    for method in methods:
        arguments += ["--method", method]
    for override in (*SMALL, *overrides):
        arguments += ["--set", override]
    done = python(package, "gim_bench", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def records(package) -> dict[str, dict]:
    return {record["method"]: record for record in run(package, *FEW)}


def test_the_method_is_at_most_150_lines():
    assert len(files_on_the_page()["my_package/vicreg.py"].splitlines()) <= 150


@pytest.mark.parametrize(
    ("listed", "name"),
    [("methods", "vicreg"), ("encoders", "small_cnn"), ("datasets", "stripes")],
)
def test_what_the_package_brings_is_listed_with_its_summary(package, listed, name):
    lines = python(package, "gim_bench", "list", listed).stdout.splitlines()
    (line,) = [line for line in lines if line.split()[0] == name]
    assert len(line.split()) > 3


def test_every_row_of_the_suite_is_done(records):
    assert list(records) == ["vicreg", "vicreg_end_to_end", "random_init"]
    assert all(record["status"] == "done" for record in records.values()), records


def test_the_twin_of_two_lines_is_end_to_end(records):
    """And the record's measured gradients say so."""
    reached = {
        name: {
            loss: [m for m, norm in row.items() if norm]
            for loss, row in record["isolation"].items()
        }
        for name, record in records.items()
    }
    assert reached["vicreg"] == {"module_1": ["module_1"], "module_2": ["module_2"]}
    assert reached["vicreg_end_to_end"] == {"module_2": ["module_1", "module_2"]}


def test_the_record_holds_the_recipe_and_where_the_plug_ins_came_from(records):
    config = records["vicreg"]["config"]
    assert config["training"]["optimiser"]["kind"] == "sgd"
    assert config["training"]["rate_schedule"]["kind"] == "cosine"
    assert config["encoder"] == {"kind": "small_cnn", "widths": [4, 8]}
    assert config["objective"] == {"invariance": 25.0, "variance": 25.0, "covariance": 2}
    assert (config["method"]["views"], config["method"]["loss_unit"]) == (2, None)
    brought_by = records["vicreg"]["provenance"]["plugins"]
    assert brought_by == {"method": "my-package 1.0", "encoder": "my-package 1.0"}


def test_each_view_counts_as_an_example_that_was_seen(records):
    metrics = records["vicreg"]["metrics"]
    assert metrics["train/samples"] == 2 * 16 * metrics["train/steps"]


def test_modules_trained_one_after_the_other_run_too_with_kept_outputs(package):
    sequential = ("training.schedule=sequential", "training.kept_outputs.epochs=1")
    (record,) = run(package, *FEW, *sequential, methods=("vicreg",))
    assert record["status"] == "done"


def test_pieces_of_a_batch_are_refused_where_batch_norm_mixes_examples(package):
    arguments = [
        "run",
        "--suite",
        "./mine.toml",
        "--no-tracking",
        "--set",
        "training.recompute=pieces",
    ]
    done = python(package, "gim_bench", *arguments)
    assert done.returncode == 2
    assert "batch norm" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_data_set_of_the_page_carries_a_suite(package):
    stripes = ('dataset={name="stripes", images=64}', "augmentation.mean=[0.5]")
    (record,) = run(package, *stripes, methods=("random_init",))
    assert record["dataset"] == "stripes"
    assert record["provenance"]["plugins"]["dataset"] == "my-package 1.0"


@pytest.mark.parametrize("line", conformance_lines())
def test_what_the_package_brings_passes_the_conformance_tests_of_the_page(line, package):
    done = python(package, *shlex.split(line))
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_the_page_tests_its_method_and_its_encoder():
    assert [("--method" in line, "--encoder" in line) for line in conformance_lines()] == [
        (True, False),
        (False, True),
    ]
