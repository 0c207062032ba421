"""Where a number comes from is found out, or said to be unknown; never guessed."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import torch

import gim_bench
from gim_bench.records import provenance


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Pretends that the package lies in a folder of the test's."""
    folder = tmp_path / "gim_bench"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.setattr(gim_bench, "__file__", str(folder / "__init__.py"))
    provenance.git_state.cache_clear()
    yield folder
    provenance.git_state.cache_clear()


@pytest.fixture
def git(tmp_path):
    """Runs git in the test's folder."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")

    def run(*arguments):
        done = subprocess.run(
            ["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    run("init", "--quiet")
    return run


def test_a_clean_checkout_has_a_commit(package, git):
    git("add", "gim_bench")
    git("commit", "--quiet", "-m", "first")
    assert provenance.git_state() == {"git_commit": git("rev-parse", "HEAD"), "git_dirty": False}


def test_a_changed_file_makes_the_checkout_dirty(package, git):
    git("add", "gim_bench")
    git("commit", "--quiet", "-m", "first")
    (package / "__init__.py").write_text("changed = True\n")
    assert provenance.git_state()["git_dirty"] is True


def test_a_suite_in_no_commit_makes_the_checkout_dirty(package, git):
    git("add", "gim_bench")
    git("commit", "--quiet", "-m", "first")
    (package / "mine.toml").write_text("")
    assert provenance.git_state()["git_dirty"] is True


@pytest.mark.parametrize("failing", ["status", "--others"])
def test_a_look_that_fails_leaves_unknown_whether_files_changed(package, git, monkeypatch, failing):
    git("add", "gim_bench")
    git("commit", "--quiet", "-m", "first")
    ask = provenance._git
    monkeypatch.setattr(provenance, "_git", lambda *a: None if failing in a else ask(*a))
    state = provenance.git_state()
    assert (state["git_commit"], state["git_dirty"]) == (git("rev-parse", "HEAD"), None)
    assert provenance.changes(state) == "perhaps with uncommitted changes"


def test_to_look_writes_nothing_into_the_checkout(package, git):
    """Nor locks it: a process killed meanwhile would leave a lock that stops the user's own git."""
    git("add", "gim_bench")
    git("commit", "--quiet", "-m", "first")
    os.utime(package / "__init__.py", (1, 1))
    before = (package.parent / ".git" / "index").read_bytes()
    assert provenance.git_state()["git_dirty"] is False
    assert (package.parent / ".git" / "index").read_bytes() == before


def test_results_beside_the_code_do_not_make_it_dirty(package, git):
    git("add", "gim_bench")
    git("commit", "--quiet", "-m", "first")
    (package.parent / "runs").mkdir()
    (package.parent / "runs" / "record.json").write_text("{}")
    assert provenance.git_state()["git_dirty"] is False


def test_a_package_installed_below_somebody_elses_repository_is_not_of_it(package, git):
    (package.parent / "thesis.tex").write_text("")
    git("add", "thesis.tex")
    git("commit", "--quiet", "-m", "theirs")
    assert provenance.git_state() == {"git_commit": None, "git_dirty": None}


def test_outside_of_a_repository_there_is_no_commit(package, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(package.parent.parent))
    assert provenance.git_state() == {"git_commit": None, "git_dirty": None}


def test_without_git_there_is_no_commit(package, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state() == {"git_commit": None, "git_dirty": None}


@pytest.fixture
def method_of(tmp_path, monkeypatch):
    """A method of somebody's package, whose other module says `text`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "somebodys").mkdir()
    (tmp_path / "somebodys" / "method.py").write_text("class Method: ...\n")

    def import_with(text):
        (tmp_path / "somebodys" / "layers.py").write_text(text)
        provenance._sources_sha256.cache_clear()
        return importlib.import_module("somebodys.method").Method

    yield import_with
    for name in ("somebodys", "somebodys.method"):
        sys.modules.pop(name, None)
    provenance._sources_sha256.cache_clear()


def test_code_is_known_by_its_sources_those_of_installed_packages_too(method_of):
    ours = provenance.code_sha256()
    first, again, other = (
        provenance.code_sha256(method_of(text)) for text in ("width = 3\n",) * 2 + ("width = 4\n",)
    )
    assert ours != first == again != other


# -- the machine -----------------------------------------------------------------------------------


def test_everything_that_may_explain_a_number_is_described():
    found = provenance.describe("cpu")
    assert found.keys() >= {
        "git_commit", "git_dirty", "versions", "host", "platform", "cpu", "cores", "threads",
        "device", "gpu", "driver", "cuda", "deterministic",
    }  # fmt: skip
    assert found["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert found["versions"]["python"].startswith("3.")
    assert found["threads"] == torch.get_num_threads()
    assert found["device"] == "cpu"
    assert found["gpu"] is found["driver"] is None


def test_the_description_is_json():
    assert json.loads(json.dumps(provenance.describe("cpu"))) == provenance.describe("cpu")


def test_a_gpu_is_called_by_its_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    found = provenance.describe("cuda:1")
    assert found["gpu"] == "GPU of cuda:1"
    assert found["device"] == "cuda"


def test_a_package_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert provenance.describe("cpu")["versions"].keys() == {"python", "torch"}


def test_the_processor_has_a_name():
    assert provenance.cpu_name()


def test_now_is_utc_to_the_second():
    before = datetime.now(UTC).replace(microsecond=0)
    parsed = datetime.fromisoformat(provenance.now())
    assert parsed.tzinfo == UTC
    assert parsed.microsecond == 0
    assert before <= parsed <= datetime.now(UTC)
