"""Text files that people edit: UTF-8, with or without a byte-order mark, with any line ends."""

import codecs
import io
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gim_bench.errors import ConfigError


class TextError(ValueError):
    """A file or a line that is no text in UTF-8, and how to save the file."""


def read_text(path: Path) -> str:
    r"""The text of a file in UTF-8; lines end with "\n", and a byte-order mark is left out.

    Raises: OSError; TextError naming the first line that is not UTF-8.
    """
    with path.open("rb") as file:
        lines = list(text_lines(file))
    for number, line in enumerate(lines, start=1):
        try:
            check_text(line)
        except TextError as error:
            raise TextError(f"line {number}: {error}") from None
    return "".join(lines)


def read_toml(
    path: Path, *, noun: str, parse_float: Callable[[str], Any] = float
) -> dict[str, Any]:
    """The tables of a TOML file. Raises: ConfigError naming the file, which is a `noun`."""
    try:
        return tomllib.loads(read_text(path), parse_float=parse_float)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"cannot read the {noun} {path} ({error}): it must be TOML, in UTF-8"
        ) from None


def text_lines(file: BinaryIO) -> Iterator[str]:
    r"""Each line of a file of any size with its end, "\n"; a byte-order mark is left out.

    `check_text` refuses a line whose bytes are not UTF-8.
    """
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape")
    try:
        yield from lines
    finally:
        lines.detach()  # the file is the caller's to close


def check_text(line: str) -> None:
    """Check that a line of `text_lines` was UTF-8. Raises: TextError naming a byte."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        content = line.encode(errors="surrogateescape")
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise TextError("it is UTF-16 text: save the file as UTF-8") from None
        byte = ord(line[error.start]) - 0xDC00
        raise TextError(f"byte 0x{byte:02x} is not UTF-8 text: save the file as UTF-8") from None
