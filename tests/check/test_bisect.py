"""`check --bisect` finds the commit that made a suite worse, in a scratch repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gim_bench.check.bisect import Trial, first_bad
from gim_bench.errors import ConfigError
from tests.tiny_suite import TOML

REPOSITORY = Path(__file__).parents[2]
SUITE = TOML.replace('["gim", "random_init"]', '["gim"]\nseeds = 2')
IDENTITY = ("-c", "user.name=A Tester", "-c", "user.email=tester@example.org")
COMMITS, FAULTY = 10, 7  # the fault comes with the seventh of ten commits
LOSS, FAULT = "return torch.stack(losses).mean()", "return torch.stack(losses).mean() * 2"
BROKEN = 4  # the fourth commit does not even import


@pytest.fixture
def scratch(made_once, tmp_path):
    """A repository of ten commits with the package, and a reference that was made at the first."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "scratch"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    top = tmp_path_factory.mktemp("bisect")
    folder = top / "scratch"
    for package in ("gim_bench", "baselines"):
        shutil.copytree(
            REPOSITORY / package,
            folder / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    (top / "tiny.toml").write_text(SUITE, encoding="utf-8")
    (folder / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    objective = folder / "gim_bench/objectives/info_nce.py"
    errors = folder / "gim_bench/errors.py"
    imports = errors.read_text(encoding="utf-8")
    for number in range(1, COMMITS + 1):
        (folder / "log.txt").write_text(f"{number}\n", encoding="utf-8")
        errors.write_text("?" if number == BROKEN else imports, encoding="utf-8")
        if number == FAULTY:
            source = objective.read_text(encoding="utf-8")
            assert LOSS in source
            objective.write_text(source.replace(LOSS, FAULT), encoding="utf-8")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", f"Change {number}")
        if number == 1:
            for command in (
                ("run", "--no-tracking"),
                ("check", "--update", "--reason", "first", "--against", "reference.json"),
            ):
                done = gim_bench(folder, *command)
                assert done.returncode == 0, done.stderr
    return top


def git(folder, *arguments):
    command = ["git", *IDENTITY, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def gim_bench(folder, command, *arguments):
    """A command by the package in the scratch repository, beside which suite and reference lie."""
    words = [sys.executable, "-m", "gim_bench", command, "--suite", "tiny.toml", *arguments]
    return subprocess.run(
        words,
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_first_of_ten_commits_with_a_planted_fault_is_found(scratch):
    good = git(scratch, "rev-list", "--max-parents=0", "HEAD").strip()
    before = git(scratch, "status", "--porcelain"), git(scratch, "rev-parse", "HEAD")
    done = gim_bench(scratch, "check", "--against", "reference.json", "--bisect", good)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("first worse commit: ")
    assert done.stdout.rstrip().endswith(f"Change {FAULTY}")
    assert (git(scratch, "status", "--porcelain"), git(scratch, "rev-parse", "HEAD")) == before
    assert git(scratch, "worktree", "list").count("\n") == 1


@pytest.mark.slow
def test_where_nothing_is_worse_there_is_nothing_to_find(scratch):
    git(scratch, "checkout", "--quiet", f"HEAD~{COMMITS - FAULTY + 1}")  # the last good commit
    done = gim_bench(scratch, "check", "--against", "reference.json", "--bisect", "HEAD~1")
    assert (done.returncode, done.stdout) == (0, "nothing is worse at HEAD\n"), done.stderr


@pytest.mark.parametrize("good", ["no-such-commit", "HEAD~999999"])
def test_an_unknown_commit_is_one_line(good):
    trial = Trial(suite="smoke", reference=Path("reference.json"), overrides=())
    with pytest.raises(ConfigError, match=re.escape(repr(good))):
        first_bad(good, trial, say=pytest.fail)
