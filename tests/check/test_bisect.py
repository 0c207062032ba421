"""`check --bisect` finds the commit that made a suite worse, in a scratch repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gim_bench as package
from gim_bench.check.bisect import Trial, first_bad
from gim_bench.check.outcome import EXIT_CODES, Outcome
from gim_bench.errors import ConfigError
from tests.cli import commands
from tests.tiny_suite import TOML

REPOSITORY = Path(__file__).parents[2]
SUITE = TOML.replace('["gim", "random_init"]', '["gim"]\nseeds = 2')
IDENTITY = ("-c", "user.name=A Tester", "-c", "user.email=tester@example.org")
LOSS, FAULT = "return torch.stack(losses).mean()", "return torch.stack(losses).mean() * 2"
TRIAL = Trial(suite="smoke", reference=Path("reference.json"), overrides=())

# -- one commit of the package itself --------------------------------------------------------------


@pytest.fixture
def scratch(tmp_path):
    """A repository of the package, a reference that was made with it, and a commit with a fault."""
    folder = tmp_path / "scratch"
    for name in ("gim_bench", "baselines"):
        shutil.copytree(
            REPOSITORY / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    (tmp_path / "tiny.toml").write_text(SUITE, encoding="utf-8")
    (folder / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    commit(folder, "Good")
    for command in (
        ("run", "--no-tracking"),
        ("check", "--update", "--reason", "first", "--against", "reference.json"),
    ):
        done = gim_bench(folder, *command)
        assert done.returncode == 0, done.stderr
    objective = folder / "gim_bench/objectives/info_nce.py"
    source = objective.read_text(encoding="utf-8")
    assert LOSS in source
    objective.write_text(source.replace(LOSS, FAULT), encoding="utf-8")
    commit(folder, "Faulty")
    return folder


def commit(folder, message):
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", message)


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
def test_a_commit_with_a_planted_fault_is_told_from_the_one_before(scratch):
    done = gim_bench(scratch, "check", "--against", "reference.json", "--bisect", "HEAD~1")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("first worse commit: ")
    assert done.stdout.rstrip().endswith("Faulty")
    assert [line[-4:] for line in done.stderr.splitlines() if line[-4:] in {" bad", "good"}] == [
        " bad",
        "good",
    ]


def test_where_nothing_is_worse_a_line_says_so(monkeypatch):
    monkeypatch.setattr("gim_bench.check.bisect.first_bad", lambda *_, **__: None)
    answer = commands.gim_bench("check", "--suite", "smoke", "--bisect", "HEAD~1")
    assert (answer.code, answer.out) == (0, "nothing is worse at HEAD\n")


# -- ten commits of a stand-in ---------------------------------------------------------------------

COMMITS = 10
# It answers by its number; one commit does not even begin.
STAND_IN = f"""
import sys
from pathlib import Path
number, faulty, broken = map(int, Path(__file__).with_name("numbers").read_text().split())
assert number != broken
worse = sys.argv[1] == "check" and number >= faulty
sys.exit({EXIT_CODES[Outcome.WORSE]} if worse else {EXIT_CODES[Outcome.PASSES]})
"""


@pytest.fixture
def ten(tmp_path, monkeypatch):
    """Makes a repository of ten commits, of which one is faulty and one is broken."""

    def make(*, faulty, broken):
        folder = tmp_path / "gim_bench"
        folder.mkdir()
        (folder / "__init__.py").touch()
        (folder / "__main__.py").write_text(STAND_IN, encoding="utf-8")
        git(tmp_path, "init", "--quiet")
        for number in range(1, COMMITS + 1):
            (folder / "numbers").write_text(f"{number} {faulty} {broken}", encoding="utf-8")
            commit(tmp_path, f"Change {number}")
        monkeypatch.setattr(package, "__file__", str(folder / "__init__.py"))
        return tmp_path

    return make


@pytest.mark.parametrize(("faulty", "broken"), [(2, 5), (3, 5), (4, 5), (7, 4), (10, 6)])
def test_the_first_of_ten_commits_that_is_worse_is_found(ten, faulty, broken):
    folder = ten(faulty=faulty, broken=broken)
    before = git(folder, "status", "--porcelain"), git(folder, "rev-parse", "HEAD")
    said = []
    found = first_bad(f"HEAD~{COMMITS - 1}", TRIAL, say=said.append)
    assert str(found).endswith(f"Change {faulty}")
    assert len(said) < 8, said
    assert (git(folder, "status", "--porcelain"), git(folder, "rev-parse", "HEAD")) == before
    assert git(folder, "worktree", "list").count("\n") == 1


def test_a_first_bad_commit_beside_a_broken_one_is_not_guessed(ten):
    ten(faulty=6, broken=5)
    with pytest.raises(ConfigError, match="among commits that could not be judged"):
        first_bad(f"HEAD~{COMMITS - 1}", TRIAL, say=str)


def test_where_nothing_is_worse_there_is_nothing_to_find(ten):
    ten(faulty=COMMITS + 1, broken=5)
    said = []
    assert first_bad("HEAD~1", TRIAL, say=said.append) is None
    assert [line[-4:] for line in said] == ["good"]


def test_a_newest_commit_that_does_not_run_is_no_answer(ten):
    ten(faulty=6, broken=COMMITS)
    with pytest.raises(ConfigError, match=r"cannot be judged: .* --data-dir cannot be bisected"):
        first_bad(f"HEAD~{COMMITS - 1}", TRIAL, say=str)


@pytest.mark.parametrize("good", ["no-such-commit", "HEAD~999999"])
def test_an_unknown_commit_is_one_line(good):
    with pytest.raises(ConfigError, match=re.escape(repr(good))):
        first_bad(good, TRIAL, say=pytest.fail)
