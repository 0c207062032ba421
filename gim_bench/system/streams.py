"""Standard streams: output is for results alone, and no reader of a stream can end the work.

A reader may leave (a closed pipe), hang up (a terminal) or have no room (a full disk). Text that
cannot be written is dropped, and the work goes on.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO, cast, runtime_checkable

OUTPUT, ERROR = 1, 2  # descriptors


@runtime_checkable
class Stream(Protocol):
    """A stream of text."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def fileno(self) -> int: ...


_shown: list[Stream] = []  # the stream of results, while all else goes to standard error


class Forgiving:
    """A text stream that drops text which cannot be written, and keeps the first error."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except OSError as error:
            self.error = self.error or error
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self.error = self.error or error

    def fileno(self) -> int:
        return self.stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def appended(path: Path) -> Iterator[Forgiving]:
    """A forgiving stream at the end of a text file. Raises: OSError if it cannot be opened."""
    stream = path.open("a", encoding="utf-8", errors="backslashreplace")
    try:
        yield Forgiving(stream)
    finally:
        with suppress(OSError):
            stream.close()


@contextmanager
def forgiving() -> Iterator[Forgiving]:
    """Within the block, standard output and error are forgiving; yields standard output.

    Libraries in C that write to the descriptor of standard output reach standard error.
    """
    open_closed()
    before = sys.stdout, sys.stderr
    output, error = Forgiving(_apart(sys.stdout)), Forgiving(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", output), cast("TextIO", error)
    try:
        yield output
    finally:
        for stream in (output, error):
            stream.flush()
            if stream.error is not None:
                _discard(stream)
        if output.stream is not before[0]:
            with suppress(OSError, ValueError):  # what libraries wrote to it and it still holds
                before[0].flush()
            os.dup2(output.fileno(), OUTPUT)
            output.close()
        sys.stdout, sys.stderr = before


@contextmanager
def results_alone() -> Iterator[None]:
    """Within the block, `show` alone writes to standard output; `print` reaches standard error."""
    _shown.append(sys.stdout)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = _shown.pop()


def show(text: object) -> None:
    """Write a line of results to standard output."""
    print(text, file=_shown[-1] if _shown else sys.stdout, flush=True)


def forgive() -> None:
    """Make standard output and error of this process forgiving until its end."""
    open_closed()
    sys.stdout = cast("TextIO", Forgiving(sys.stdout))
    sys.stderr = cast("TextIO", Forgiving(sys.stderr))


def open_closed() -> None:
    """Open standard streams that are closed, on the null device.

    Otherwise the next file that is opened would have the descriptor of a standard stream, and
    `print` to a missing standard error would write to standard output.
    """
    for descriptor in (0, OUTPUT, ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    streams = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
    for descriptor, (name, mode) in enumerate(streams):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def _apart(stream: Stream) -> Stream:
    """The stream on a descriptor of its own, if it has the descriptor of standard output.

    The descriptor of standard output then leads to standard error.
    """
    if isinstance(stream, io.TextIOWrapper):  # file names may hold what it cannot encode
        stream.reconfigure(errors="backslashreplace")
    try:
        if stream.fileno() != OUTPUT:
            return stream
    except (OSError, ValueError):  # a stream in memory
        return stream
    with suppress(OSError):
        stream.flush()
    kept = os.fdopen(os.dup(OUTPUT), "w", encoding=sys.stdout.encoding, errors="backslashreplace")
    os.dup2(ERROR, OUTPUT)
    return kept


def _discard(stream: Forgiving) -> None:
    """Let text that is still held go nowhere, or Python would complain at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
