"""What users can get wrong, each said in one line: what was asked, what was found, what to do."""

import difflib
from collections.abc import Iterable

LONGEST_LINE = 1_000  # characters


class BenchError(Exception):
    """Base of every error that is the user's to mend; shown as one line, without a traceback."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigError(BenchError):
    """A suite file, `--set` value or option that cannot be used (exit code 2)."""


class DataError(BenchError):
    """A data set that is missing, damaged or too small (exit code 2 before a cell has begun)."""


class TrackingError(BenchError):
    """A tracking store that cannot be reached (exit code 2 before a cell has begun)."""


class TrainingError(BenchError):
    """A cell that cannot go on, such as a loss that is no longer finite; its record says why."""


class TimeLimitError(BenchError):
    """A cell that takes longer than it may; with more time, it goes on where it was."""


class RoomError(BenchError):
    """A disk without room for what is to be kept; with room, the cell goes on where it was."""


def one_line(text: str) -> str:
    r"""`text` with what cannot be printed escaped, and without the middle where it is too long.

    File names and settings are whatever somebody wrote, and errors quote them.

    >>> one_line("no method 'a" + chr(10) + "b'")
    "no method 'a\\nb'"
    """
    if len(text) > LONGEST_LINE:
        half = LONGEST_LINE // 2
        text = f"{text[:half]} … {text[-half:]}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def unknown_name(kind: str, name: str, *, known: Iterable[str], where: str = "") -> str:
    """One line for a name that is not there: the nearest known name and the whole list.

    >>> unknown_name("method", "gmi", known=["cpc", "gim"], where="stl10.toml, methods[0]")
    "no method 'gmi' (stl10.toml, methods[0]). Did you mean 'gim'? Available: cpc, gim"
    """
    known = sorted(known)
    place = f" ({where})" if where else ""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"no {kind} {name!r}{place}.{hint} Available: {', '.join(known) or 'none'}"
