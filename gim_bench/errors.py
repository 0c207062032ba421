"""Errors that users can mend. Each is one line: the request, the fault, the remedy."""

import difflib
from collections.abc import Iterable

LONGEST_LINE = 1_000  # characters


class BenchError(Exception):
    """Base of every error that the user can mend. Users see one line and no traceback."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigError(BenchError):
    """A suite file, `--set` value or option that cannot be used (exit code 2)."""


class DataError(BenchError):
    """A data set that is missing, damaged or too small (exit code 2 before a cell has begun)."""


class TrackingError(BenchError):
    """A tracking store that cannot be reached (exit code 2 before a cell has begun)."""


class UnwritableError(TrackingError):
    """A tracking store in a file or folder that this user cannot write."""


class TrainingError(BenchError):
    """A cell that cannot go on, for example because a loss is not finite. Its record says why."""


class TimeLimitError(BenchError):
    """A cell that exceeds its time limit. With more time, the cell resumes from its checkpoint."""


class WorkerError(BenchError):
    """A process of a training that has ended. The cell resumes from its checkpoint."""


class RoomError(BenchError):
    """A disk without room for a file of a cell. With room, the cell resumes from its checkpoint."""


def one_line(text: str) -> str:
    r"""Return `text` with unprintable characters escaped; a text that is too long loses its middle.

    Errors quote file names and settings, which may hold any character.

    >>> one_line("no method 'a" + chr(10) + "b'")
    "no method 'a\\nb'"
    """
    if len(text) > LONGEST_LINE:
        half = LONGEST_LINE // 2
        text = f"{text[:half]} … {text[-half:]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    r"""The first line of an error's message, or the name of its class where it has no message.

    >>> first_line(RuntimeError("CUDA error" + chr(10) + "For debugging, pass ..."))
    'CUDA error'
    >>> first_line(KeyError())
    'KeyError'
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def class_and_first_line(error: BaseException) -> str:
    """The name of an error's class and the first line of its message.

    >>> class_and_first_line(RuntimeError("CUDA error"))
    'RuntimeError: CUDA error'
    >>> class_and_first_line(KeyError())
    'KeyError'
    """
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def unknown_name(kind: str, name: str, *, known: Iterable[str], where: str = "") -> str:
    """Message about an unknown name, with the nearest known name and the list of all.

    >>> unknown_name("method", "gmi", known=["cpc", "gim"], where="stl10.toml, methods[0]")
    "no method 'gmi' (stl10.toml, methods[0]). Did you mean 'gim'? Available: cpc, gim"
    """
    known = sorted(known)
    place = f" ({where})" if where else ""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"no {kind} {name!r}{place}.{hint} Available: {', '.join(known) or 'none'}"
