"""Files that are written whole or not at all."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE
from typing import BinaryIO

_PART = re.compile(r"\.(.+)\.\d+-[0-9a-f]{8}", re.DOTALL)


def write_atomically(path: Path, content: bytes, *, keeps_mode: bool = False) -> None:
    """Replace the file at `path` by `content`, wholly or not at all.

    With `keeps_mode`, whoever may read and write the file there may read and write the new one.
    Raises: OSError.
    """
    with atomically(path, keeps_mode=keeps_mode) as file:
        file.write(content)


@contextmanager
def atomically(path: Path, *, keeps_mode: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which replaces the file at `path` when the block ends without an error.

    A process that is killed leaves a part file. With `keeps_mode`, the file has the permissions of
    the one there. Raises: OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with part.open("xb") as file:
            if keeps_mode and path.exists():
                part.chmod(S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:  # also after an interruption: no partial file stays
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # the error of a full disk names no file
        raise


def whole_of(path: Path) -> Path | None:
    """The file for which `atomically` made a part file; None for the path of any other file."""
    name = _PART.fullmatch(path.name)
    return path.with_name(name[1]) if name else None
