"""Standard streams whose reader is gone, or which are closed."""

import errno
import io
import os
import subprocess
import sys

import pytest

from gim_bench.system.streams import Forgiving, forgiving, results_alone, show

CLOSED = """
import os, sys
from pathlib import Path
from gim_bench.system.streams import forgiving
with forgiving():
    descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
    os.write(2, b"noise")
    print("more noise", file=sys.stderr)
    sys.stderr.flush()
    Path(sys.argv[1] + ".descriptor").write_text(str(descriptor))
"""


class Broken(io.StringIO):
    """A stream that raises an error while `error` is set."""

    error = None

    def write(self, text):
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EAGAIN])
def test_text_that_cannot_be_written_is_dropped_and_the_first_error_kept(number):
    stream = Broken()
    forgiving_stream = Forgiving(stream)
    print("before", file=forgiving_stream)
    stream.error = OSError(number, "no")
    print("lost", file=forgiving_stream, flush=True)
    stream.error = OSError(errno.EBADF, "later")
    print("lost too", file=forgiving_stream)
    stream.error = None
    print("after", file=forgiving_stream)
    assert stream.getvalue() == "before\nafter\n"
    assert forgiving_stream.error.errno == number


def test_what_is_no_text_is_refused_as_ever():
    with pytest.raises(TypeError):
        Forgiving(io.StringIO()).write(b"bytes")


def test_within_results_alone_print_reaches_standard_error(monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with forgiving(), results_alone():
        print("noise")  # noqa: T201
        show("result")
    print("later")  # noqa: T201
    assert (out.getvalue(), err.getvalue()) == ("result\nlater\n", "noise\n")


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_descriptor_of_a_standard_stream_that_is_closed(closed, tmp_path):
    """Or what a library writes to standard error would end up in a record."""
    command = f"exec {sys.executable} -c '{CLOSED}' {tmp_path}/file {closed}"
    subprocess.check_call(command, shell=True)  # noqa: S602
    assert (tmp_path / "file").read_bytes() == b""
    assert int((tmp_path / "file.descriptor").read_text()) > 2


def test_a_terminal_that_hangs_up_is_forgiven():
    reader, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        forgiving_stream = Forgiving(stream)
        print("seen", file=forgiving_stream, flush=True)
        os.close(reader)
        print("lost", file=forgiving_stream, flush=True)
        assert forgiving_stream.error.errno == errno.EIO
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
