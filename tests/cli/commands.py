"""Commands as tests type them, and what they leave on disk."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest

from gim_bench.cli.main import main

RUN = ("run", "--suite", "./tiny.toml")
PLAIN = (*RUN, "--no-tracking")
REPORT = ("report", "--suite", "./tiny.toml")
SWEEP = ("sweep", "--suite", "./tiny.toml", "--method", "gim", "--trials", "12")


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def gim_bench(*arguments):
    """The exit code and the output of a command."""
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["gim_bench", *arguments])
        with pytest.raises(SystemExit) as ending:
            main()
    texts = (stream.buffer.getvalue().decode() for stream in (out, err))
    return Answer(ending.value.code or 0, *texts)


def records(folder):
    """The records in the runs folder below `folder`."""
    paths = sorted(folder.glob("runs/*/*/seed-*/record.json"))
    return [json.loads(path.read_text()) for path in paths]


def statuses(folder):
    """The status of each record by method and seed."""
    return {(r["method"], r["seed"]): r["status"] for r in records(folder)}
