"""Feeding the program bad input: how it is called, what an answer may be, how much is fed.

Every test declares with `fed` how many generated inputs it tries, and fails if they were fewer. The
inputs are the same on every run; BAD_INPUT_TIMES=50 tries fifty times as many, new ones each time.
"""

import io
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gim_bench.cli.main import main
from gim_bench.errors import LONGEST_LINE, BenchError
from gim_bench.hardware.threads import cores

TIMES = int(os.environ.get("BAD_INPUT_TIMES", "1"))
SECONDS = 120  # so much more than any input takes that what takes longer hangs

PROMISED: dict[str, int] = {}  # inputs, by test


def fed(inputs: int, **strategies: st.SearchStrategy) -> Callable[[Callable], Callable]:
    """A test of so many generated inputs, each answered in time."""

    def decorate(test: Callable) -> Callable:
        tried: list[int] = []

        @wraps(test)
        def counted(*arguments, **generated):
            tried.append(1)
            with in_time():
                test(*arguments, **generated)

        PROMISED[f"{test.__module__}.{test.__name__}"] = inputs
        generated = settings(
            max_examples=inputs * TIMES,
            derandomize=TIMES == 1,
            database=None,
            deadline=None,  # `in_time` ends what hangs, which a deadline only notes
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(counted))

        @wraps(generated)
        def complete(*arguments, **fixtures):
            tried.clear()
            generated(*arguments, **fixtures)
            assert len(tried) >= inputs

        return complete

    return decorate


class Hang(BaseException):
    """Nothing of the program's catches it."""


@contextmanager
def in_time() -> Iterator[None]:
    """Raises: Hang in a block that has not ended after SECONDS."""

    def ring(*_: object) -> None:
        raise Hang(f"no answer within {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# -- the command line ------------------------------------------------------------------------------


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def gim_bench(*arguments: str) -> Answer:
    """What the command line answers, with streams that refuse what a terminal's would."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    err.reconfigure(errors="backslashreplace")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["gim_bench", *arguments])
        patch.setattr("torch.cuda.is_available", lambda: False)
        patch.setattr("gim_bench.cli.workload.idle_cores", cores)  # a busy machine earns a note
        with pytest.raises(SystemExit) as ending:
            main()
    return Answer(ending.value.code or 0, _written(out), _written(err))


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode("utf-8")


@contextmanager
def folder_of_its_own() -> Iterator[Path]:
    """The working folder within the block, empty, with a cache in it."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.chdir(name)
        patch.setenv("GIM_BENCH_CACHE", str(Path(name) / "cache"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Path(name)


def check_answer(answer: Answer, *, codes: tuple[int, ...] = (0, 2)) -> None:
    """A result, or one line that says why there is none."""
    assert answer.code in codes, answer
    if answer.code == 2:
        *_, last = lines = answer.err.splitlines()
        assert sum(line.startswith("error: ") for line in lines) == 1, answer.err
        check_line(last.removeprefix("error: "))


def check_line(line: str) -> None:
    """One line that a person can read and that does not speak of our own code."""
    note(line)
    assert line.isprintable(), repr(line)
    assert 10 < len(line) <= 2 * LONGEST_LINE, line
    assert not re.search(r"Traceback|<class|object at 0x|\.py\b", line), line


def note(line: str) -> None:
    """Into the file BAD_INPUT_LINES, for people who want to read what users are told."""
    if path := os.environ.get("BAD_INPUT_LINES"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextmanager
def result_or_line(*expected: type[Exception]) -> Iterator[None]:
    """A block that ends well, or with a BenchError or one of `expected` in one line."""
    try:
        yield
    except (BenchError, *expected) as error:
        check_line(str(error))


def encoded(samples: np.ndarray, *, kind: str, subtype: str, rate_hz: int = 16_000) -> bytes:
    """A file of sound in that container and coding."""
    written = io.BytesIO()
    soundfile.write(written, samples, rate_hz, format=kind, subtype=subtype)
    return written.getvalue()


# -- what is fed -----------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan")]),
    st.sampled_from([float("inf"), float("-inf"), 1e-320]),
    st.integers(),
    st.floats(),
)
TEXTS = st.one_of(
    st.sampled_from(["", " ", "\n", "\0", "ü", "\u202e", "a" * 5_000, "../..", "true", "1e-3"]),
    st.text(max_size=20),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)


def deep(depth: int) -> list:
    """Lists within lists."""
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


VALUES = st.one_of(
    SCALARS,
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)
        ),
        max_leaves=5,
    ),
)


@st.composite
def altered(draw: st.DrawFn, tree: dict, values: st.SearchStrategy = VALUES):
    """The tree of tables and lists with one thing in it replaced, removed, or added."""
    place = draw(st.sampled_from(list(_places(tree))))
    change = draw(st.sampled_from(["replace", "remove", "add"]))
    value, name = draw(values), draw(TEXTS)
    return _changed(tree, place, change=change, value=value, name=name)


def _places(tree, above=()):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for name, inner in items:
        yield (*above, name)
        if isinstance(inner, (dict, list)):
            yield from _places(inner, (*above, name))


def _changed(tree, place, *, change, value, name):
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    here, *below = place
    if below:
        copy[here] = _changed(tree[here], below, change=change, value=value, name=name)
    elif change == "remove":
        del copy[here]
    elif change == "add" and isinstance(copy, dict):
        copy[name] = value
    else:
        copy[here] = value
    return copy


@st.composite
def damaged(draw: st.DrawFn, contents: tuple[bytes, ...]):
    """One of these files cut off, with bytes changed, with bytes put in, or something else."""
    content = bytearray(draw(st.sampled_from(contents)))
    places = st.integers(0, len(content) - 1)
    # Headers are the smallest part of most files, and the one where a change has consequences.
    places = st.one_of(places, st.integers(0, min(100, len(content) - 1)))
    kind = draw(st.sampled_from(["cut", "change", "change", "insert", "remove", "other"]))
    if kind == "cut":
        return bytes(content[: draw(places)])
    if kind == "other":
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 4))):
        at, new = draw(places), draw(st.binary(min_size=1, max_size=8))
        if kind == "insert":
            content[at:at] = new
        else:
            content[at : at + len(new)] = new if kind == "change" else b""
    return bytes(content)
