"""The user of a process, who may have no name and no home, as in containers."""

import getpass
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from gim_bench.errors import ConfigError
from gim_bench.progress import Progress

CACHE = "GIM_BENCH_CACHE"


class Caching:
    """Base of what keeps files for later in `cache_dir`."""

    given_cache_dir: Path | None  # None: the folder that GIM_BENCH_CACHE names, or the user's
    progress: Progress

    @cached_property
    def cache_dir(self) -> Path:
        """The folder for decoded data and checksums, looked for where it is needed alone.

        Raises: ConfigError if there is no such folder.
        """
        return self.given_cache_dir or cache_folder(say=self.progress.say)


def settle_user() -> None:
    """Give a user without a name or a home one for this process.

    PyTorch asks for the name when it trains, MLflow for the home when it is imported. The home is a
    private folder among the temporary files.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid-{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        with suppress(OSError):
            os.environ["HOME"] = str(_private_folder())


def cache_folder(*, say: Callable[[str], None]) -> Path:
    """The folder for decoded data and checksums, which may not be there yet.

    It is the folder that GIM_BENCH_CACHE names, or else the user's cache folder. A user who cannot
    write there has a private folder among the temporary files, which `say` is told.

    Raises: ConfigError if there is no such folder.
    """
    if named := os.environ.get(CACHE):
        return Path(named)
    reason = "this user has no home folder"
    try:
        usual = _usual_folder()
        if usual is not None:
            if _is_writable(usual):
                return usual
            reason = f"{usual} cannot be written"
        folder = _private_folder()
    except OSError as error:
        raise ConfigError(
            f"no folder for decoded data and checksums: {reason}, nor can a temporary one "
            f"({error.strerror}): name a folder with {CACHE}"
        ) from None
    say(f"decoded data and checksums are kept in {folder}, because {reason}; {CACHE} names another")
    return folder


def _usual_folder() -> Path | None:
    """The user's cache folder; None where the user has no home but that of `settle_user`."""
    import platformdirs

    try:
        folder = Path(platformdirs.user_cache_dir("gim-bench"))
    except RuntimeError:
        return None
    no_home = not folder.is_absolute() or folder.is_relative_to(_temporary_home())
    return None if no_home else folder


def _is_writable(folder: Path) -> bool:
    """Whether the folder can be written or made. Nothing is made to find out."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _temporary_home() -> Path:
    """The place of the private folder. Raises: OSError where nobody can write temporary files."""
    return Path(tempfile.gettempdir()) / f"gim-bench-{os.getuid()}"


def _private_folder() -> Path:
    """A folder of temporary files that this user alone can write. Raises: OSError."""
    folder = _temporary_home()
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    shared = stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or shared:
        raise PermissionError(0, f"{folder} belongs to somebody else")
    return folder
