"""Parts that data sets of files share: remembered checksums, threads, downloads, unpacking."""

import gzip
import hashlib
import http.client
import json
import math
import os
import stat
import tarfile
import urllib.error
import urllib.request
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from gim_bench.contract import Dataset
from gim_bench.errors import DataError
from gim_bench.progress import Progress, Task
from gim_bench.seals import sealed, unsealed
from gim_bench.system.atomic import atomically, write_atomically

Item = TypeVar("Item")
Result = TypeVar("Result")

MEGABYTE = 10**6  # bytes: the unit of progress, and the size of one read
TIMEOUT_SECONDS = 60


class FileDataset(Dataset):
    """A data set in files of the user, which the package reads and never changes."""

    needs_data_dir = True

    @cached_property
    def known(self) -> "KnownChecksums":
        """Checksums of the folder's files, remembered in `cache_dir`."""
        place = "default" if self.data_dir is None else self.data_dir.absolute()
        name = hashlib.sha256(os.fsencode(f"{type(self).__name__}:{place}")).hexdigest()[:16]
        return KnownChecksums(self.cache_dir / f"checksums-{name}.json")


# -- checksums -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksums:
    """Checksums of one file's bytes, as hexadecimal digits."""

    sha256: str
    md5: str


class Hashing:
    """Computes both checksums of bytes that arrive piece by piece."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        self._sha256.update(piece)
        self._md5.update(piece)

    def checksums(self) -> Checksums:
        return Checksums(sha256=self._sha256.hexdigest(), md5=self._md5.hexdigest())


class Megabytes:
    """A progress task in megabytes that counts bytes."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._bytes = 0

    def add(self, count: int) -> None:
        before = self._bytes // MEGABYTE
        self._bytes += count
        if steps := self._bytes // MEGABYTE - before:
            self._task.advance(steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Size and times of a file, from `stat`; they differ after every change of the file."""

    size: int  # bytes
    mtime_ns: int
    ctime_ns: int  # unlike mtime, no program can set ctime


class KnownChecksums:
    """Checksums in a JSON file; each is valid as long as its file keeps its stamp."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _remembered(path)

    def of(
        self, paths: Sequence[Path], *, title: str, progress: Progress, fresh: bool = False
    ) -> list[Checksums]:
        """Checksums of each of `paths`. Only new and changed files are read; all, if `fresh`.

        Raises: DataError naming a file that cannot be read.
        """
        stamps = {str(path.absolute()): stamp_of(path) for path in paths}
        unread = {
            name: stamp
            for name, stamp in stamps.items()
            if fresh or name not in self._known or self._known[name][0] != stamp
        }
        if unread:
            self._read(unread, title=title, progress=progress)
        return [self._known[name][1] for name in stamps]

    def remember(self, path: Path, checksums: Checksums, *, progress: Progress) -> None:
        """Remember checksums that the caller computed while writing `path`."""
        self._known[str(path.absolute())] = (stamp_of(path), checksums)
        self._save(progress)

    def _read(self, unread: Mapping[str, Stamp], *, title: str, progress: Progress) -> None:
        total = math.ceil(sum(stamp.size for stamp in unread.values()) / MEGABYTE)
        try:
            with progress.task(title, total=total, unit="MB") as task:
                done = Megabytes(task)
                for name, stamp in unread.items():
                    # The stamp is older than the read: a change meanwhile is seen the next time.
                    self._known[name] = (stamp, checksums_of(Path(name), done=done))
        finally:
            self._save(progress)  # an interruption loses nothing that was read

    def _save(self, progress: Progress) -> None:
        entries = {
            name: [stamp.size, stamp.mtime_ns, stamp.ctime_ns, checksums.sha256, checksums.md5]
            for name, (stamp, checksums) in self._known.items()
        }
        try:
            write_atomically(self.path, json.dumps(sealed({"files": entries})).encode())
        except OSError as error:
            progress.say(f"checksums will be computed again next time: {reason(error)}")


def checksums_of(path: Path, *, done: Megabytes | None = None) -> Checksums:
    """Both checksums of a file of any size, in one pass. Raises: DataError naming the file."""
    hashing = Hashing()
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(MEGABYTE):
                hashing.update(piece)
                if done is not None:
                    done.add(len(piece))
    except OSError as error:
        raise unreadable(error) from None
    return hashing.checksums()


def fingerprint_of(contents: Iterable[tuple[str, str]]) -> str:
    """sha256 of (name, sha256) pairs, whatever their order."""
    lines = (os.fsencode(name) + b"\0" + sha256.encode() for name, sha256 in contents)
    return hashlib.sha256(b"\n".join(sorted(lines))).hexdigest()


def stamp_of(path: Path) -> Stamp:
    """The file's present stamp. Raises: DataError naming the file."""
    try:
        status = path.stat()
    except OSError as error:
        raise unreadable(error) from None
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
        raise DataError(f"cannot read {path} (it is no regular file): remove it")
    return Stamp(size=status.st_size, mtime_ns=status.st_mtime_ns, ctime_ns=status.st_ctime_ns)


def _remembered(path: Path) -> dict[str, tuple[Stamp, Checksums]]:
    """The entries of the file at `path`; none if the file is missing or damaged."""
    try:
        files = unsealed(path.read_bytes())["files"]
        return {name: _entry(*entry) for name, entry in files.items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}


def _entry(
    size: int, mtime_ns: int, ctime_ns: int, sha256: str, md5: str
) -> tuple[Stamp, Checksums]:
    if len(sha256) != 64 or len(md5) != 32:
        raise ValueError("digits are missing")
    stamp = Stamp(size=size, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
    return stamp, Checksums(sha256=sha256, md5=md5)


# -- unreadable files ----------------------------------------------------------------------------


class UnusableError(Exception):
    """A file or line that cannot be used, and the reason; callers fail, or skip and count it."""


def unreadable(error: OSError) -> DataError:
    """The error for a file or folder that cannot be read."""
    return DataError(f"cannot read {reason(error)}: make it readable, or remove it")


def reason(error: OSError) -> str:
    """The file, if the error names one, and the fault."""
    return f"{error.filename} ({error.strerror})" if error.filename else str(error)


# -- many files ----------------------------------------------------------------------------------


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results of `function` for each item, in order; several threads work a little ahead.

    A pool's own `map` would hold all results that are not yet taken, here up to a decoded data set.
    """
    threads = os.cpu_count() or 1
    ahead = deque[Future[Result]]()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 4 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


# -- downloads -----------------------------------------------------------------------------------


def download(
    url: str,
    *,
    to: Path,
    advice: str,
    progress: Progress,
    md5: str | None = None,
    sha256: str | None = None,
) -> None:
    """Download `url` to `to` and check one checksum. An interrupted download resumes.

    Raises: DataError, ending in `advice`, if the network or the disk fails; DataError if the
    download breaks off or has another checksum.
    """
    assert (md5 is None) != (sha256 is None)
    part = to.with_name(f"{to.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        missing = _fetch(url, part=part, title=f"downloading {to.name}", progress=progress)
    except (OSError, http.client.HTTPException) as error:
        why = str(error) or type(error).__name__
        raise DataError(f"cannot download {url} ({why}): {advice}") from None
    if missing:
        raise DataError(
            f"the download of {url} broke off {missing:,} bytes before its end: run the same "
            f"command again to resume from {part}"
        )
    kind, expected = ("md5", md5) if sha256 is None else ("sha256", sha256)
    total = math.ceil(part.stat().st_size / MEGABYTE)
    with progress.task(f"checking {part.stem}", total=total, unit="MB") as task:
        actual = getattr(checksums_of(part, done=Megabytes(task)), kind)
    if actual != expected:
        part.unlink()  # resuming from a wrong file would never succeed
        raise DataError(
            f"the download of {url} has {kind} {actual}, not {expected}, and was deleted: run the "
            f"same command again; if that does not help, the source has changed"
        )
    part.replace(to)


def _fetch(url: str, *, part: Path, title: str, progress: Progress) -> int:
    """Append the missing bytes to `part`; returns the number of bytes that are still missing."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    # The addresses are constants of the data sets, and the md5 of the download is checked.
    request = urllib.request.Request(url, headers=headers)  # noqa: S310
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return 0  # the file is complete; the md5 tells whether it is the right file
        raise
    with response:
        carried_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        missing = int(response.headers.get("Content-Length", 0))
        start = have if carried_on else 0
        total = math.ceil((start + missing) / MEGABYTE)
        with (
            part.open("ab" if carried_on else "wb") as file,
            progress.task(title, total=total, unit="MB") as task,
        ):
            done = Megabytes(task)
            done.add(start)
            while piece := response.read(MEGABYTE):
                file.write(piece)
                done.add(len(piece))
                missing -= len(piece)
    return max(missing, 0)


# -- archives ------------------------------------------------------------------------------------


def unpack(
    archive: Path, *, place: Callable[[str], Path | None], total_bytes: int, progress: Progress
) -> None:
    """Unpack each regular file of a .tar.gz to `place(name)`, unless a file is there already.

    Names in the archive never become paths: `place` chooses the path, or None to skip the file.

    Raises: ArchiveError; OSError if a file cannot be written.
    """
    total = total_bytes // MEGABYTE
    try:
        with (
            tarfile.open(archive, "r:gz") as members,
            progress.task(f"unpacking {archive.name}", total=total, unit="MB") as task,
        ):
            done = Megabytes(task)
            for member in members:
                path = place(member.name) if member.isreg() else None
                if path is not None and path.exists():
                    done.add(member.size)
                elif path is not None:
                    _extract(members, member, to=path, done=done)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArchiveError(str(error)) from None


class ArchiveError(Exception):
    """An archive that cannot be unpacked, and why."""


def _extract(
    members: tarfile.TarFile, member: tarfile.TarInfo, *, to: Path, done: Megabytes
) -> None:
    content = members.extractfile(member)
    assert content is not None  # regular files have content
    with content, atomically(to) as file:
        while piece := content.read(MEGABYTE):
            file.write(piece)
            done.add(len(piece))
