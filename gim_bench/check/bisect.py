"""The first commit at which a suite became worse than its reference, found by `git bisect`."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gim_bench
from gim_bench.check.outcome import EXIT_CODES, Outcome
from gim_bench.errors import ConfigError, one_line

FIRST_BAD = re.compile(r"^([0-9a-f]{40}) is the first bad commit$", re.MULTILINE)
TERMS = {EXIT_CODES[Outcome.PASSES]: "good", EXIT_CODES[Outcome.WORSE]: "bad"}
SKIPPED = "skip"  # a commit that does not run, or cannot be judged


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is run and checked at every commit, with the code of the commit."""

    suite: str  # a name, or an absolute path
    reference: Path
    overrides: Sequence[str]

    def term(self, checkout: Path, *, runs: Path) -> str:
        """What git calls the commit that is checked out: "good", "bad" or "skip".

        Records of the commit are written to `runs`.
        """
        shared = ["--suite", self.suite, "--runs-dir", str(runs)]
        shared += [word for each in self.overrides for word in ("--set", each)]
        if _python(checkout, "run", *shared, "--no-tracking", "--workers", "1") != 0:
            return SKIPPED
        return TERMS.get(
            _python(checkout, "check", *shared, "--against", str(self.reference)), SKIPPED
        )


def first_bad(good: str, trial: Trial, *, say: Callable[[str], None]) -> str | None:
    """Hash and subject of the first commit after `good` that is worse; None if HEAD is not worse.

    Every trial has a line by `say`. The checkout of the package itself is left as it is: commits
    are checked out in a folder of their own, which is deleted.

    Raises: ConfigError if the package is in no git checkout, if `good` is no ancestor of HEAD or is
    worse itself, or if commits that could not be judged hide the first bad one.
    """
    repository = Path(gim_bench.__file__).parent
    newest, oldest = (_commit(repository, name) for name in ("HEAD", good))
    if _git(repository, "merge-base", "--is-ancestor", oldest, newest).returncode != 0:
        raise ConfigError(f"--bisect {good}: no commit before HEAD ({newest[:12]}): name one")
    with _checkout(repository) as (checkout, runs):

        def tried(commit: str) -> str:
            term = trial.term(checkout, runs=runs / commit)
            say(f"{_subject(checkout, commit)}: {term}")
            return term

        if (term := tried(newest)) != "bad":
            if term == SKIPPED:
                raise ConfigError(
                    f"HEAD ({newest[:12]}) cannot be judged: run check without --bisect; a suite "
                    f"whose data need --data-dir cannot be bisected"
                )
            return None
        _run(checkout, "checkout", "--quiet", oldest)
        if (term := tried(oldest)) != "good":
            said = "worse" if term == "bad" else "not to be judged (a suite of several seeds?)"
            raise ConfigError(f"--bisect {good}: that commit is {said} itself: name another commit")
        answer = _run(checkout, "bisect", "start", newest, oldest)
        while (found := FIRST_BAD.search(answer)) is None:
            if "first bad commit could be any of" in answer:
                raise ConfigError(
                    f"the first bad commit lies among commits that could not be judged: "
                    f"{one_line(answer.partition('any of:')[2])}"
                )
            term = tried(_commit(checkout, "HEAD"))
            answer = _git(checkout, "bisect", term).stdout  # its exit code says what the text says
        return _subject(checkout, found.group(1))


@contextmanager
def _checkout(repository: Path) -> Iterator[tuple[Path, Path]]:
    """A checkout of HEAD in a folder of its own, and a folder beside it, within the block."""
    with tempfile.TemporaryDirectory(prefix="gim-bench-bisect-") as folder:
        checkout, runs = Path(folder) / "checkout", Path(folder) / "runs"
        _run(repository, "worktree", "add", "--quiet", "--detach", str(checkout), "HEAD")
        try:
            yield checkout, runs
        finally:
            _git(repository, "worktree", "remove", "--force", str(checkout))


def _python(checkout: Path, *arguments: str) -> int:
    """The exit code of a command by the package that is checked out; its progress is shown."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "gim_bench", *arguments]
    return subprocess.run(  # noqa: S603 - the package's own command
        command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL, check=False
    ).returncode


def _commit(folder: Path, name: str) -> str:
    """The full hash of a commit. Raises: ConfigError."""
    found = _git(folder, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if found.returncode != 0:
        raise ConfigError(
            f"--bisect needs a git checkout of gim_bench with the commit {name!r}, and {folder} "
            f"has none: {one_line(found.stderr) or 'unknown commit'}"
        )
    return found.stdout.strip()


def _subject(folder: Path, commit: str) -> str:
    return _run(folder, "log", "-1", "--format=%h %s", commit).strip()


def _run(folder: Path, *arguments: str) -> str:
    """What a git command prints. Raises: ConfigError."""
    done = _git(folder, *arguments)
    if done.returncode != 0:
        raise ConfigError(f"git {arguments[0]} failed: {one_line(done.stderr)}")
    return done.stdout


def _git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607 - whichever git the user has
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError("--bisect needs git, which is not installed") from None
