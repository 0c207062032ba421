"""Files about the project: how it is cited, what its hooks run, where its data come from."""

import configparser
from pathlib import Path

import yaml

import gim_bench
from gim_bench.datasets import DATASETS
from gim_bench.datasets.images.photos import PHOTOGRAPHS

ROOT = Path(__file__).parents[1]
OF_PEOPLE = {"image_folder": "folder", "large_images": "folder", "audio_folder": "folder-audio"}


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == gim_bench.__version__


def test_the_hooks_run_what_lint_runs():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini", encoding="utf-8")
    commands = tox["testenv:lint"]["commands"].split("\n")
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (hooks,) = (repository["hooks"] for repository in config["repos"])
    assert [hook["name"] for hook in hooks] == [line for line in commands if line]
    for hook in hooks:
        assert set(hook["name"].split()) <= set(hook["entry"].split())


def test_files_of_the_package_have_at_most_450_lines():
    files = [*(ROOT / "gim_bench").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")]
    lines = {p.relative_to(ROOT): p.read_text(encoding="utf-8").count("\n") for p in files}
    assert len(lines) > 100
    assert not {path: number for path, number in lines.items() if number > 450}


def test_every_data_set_has_a_data_sheet():
    text = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert all(f"`{OF_PEOPLE.get(name, name)}`" in text for name in DATASETS)


def test_every_photograph_has_a_licence_or_is_said_to_have_none():
    text = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    licences = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].strip("`") in PHOTOGRAPHS:
            licences[cells[0].strip("`")] = (cells[1].strip("`"), cells[3])
    assert {name: file for name, (file, _) in licences.items()} == PHOTOGRAPHS
    assert all(licence for _, licence in licences.values())
