"""Walk through a folder of the user: every visible file is read, or left out and named."""

import heapq
import os
import unicodedata
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from gim_bench.datasets.files import unreadable
from gim_bench.errors import one_line

# Files and folders that systems put beside the user's own, in lower case. Hidden names are clutter
# without being listed.
CLUTTER = frozenset(
    {
        "thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
        "picasa.ini", "icon\r", "__macosx", "$recycle.bin", "recycler", "system volume information",
        "lost+found", "lost.dir", "found.000", "network trash folder", "temporary items",
        "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb",
    }
)  # fmt: skip
SHOWN_DETAILS = 3


@dataclass(frozen=True, slots=True)
class Reason:
    """Noun for places that are left out, in the singular and in the plural."""

    one: str
    several: str


UNREAD = Reason("file that is not read", "files that are not read")
NOWHERE = Reason("link that leads nowhere", "links that lead nowhere")
CIRCLE = Reason("link back to a folder above it", "links back to folders above them")
AGAIN = Reason("folder that is read under another name", "folders that are read under other names")
CLOSED = Reason("folder that cannot be read", "folders that cannot be read")
SPECIAL = Reason("pipe, socket or device", "pipes, sockets or devices")


class Place(Enum):
    """Kinds of places that may be read."""

    FILE = "file"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """The visible places below a folder, by their names below it, with "/"; all sorted."""

    root: Path
    names: Sequence[str]  # of the files that are read
    folders: Sequence[str]  # those that are left out too
    left_out: Mapping[Reason, Sequence[str]]

    @property
    def paths(self) -> list[Path]:
        """Paths of the files that are read, in the order of `names`."""
        return [self.root / name for name in self.names]

    def below(self, folder: str) -> Sequence[str]:
        """Names of the files that are read in `folder`, at any depth."""
        first, last = (bisect_left(self.names, f"{folder}{after}") for after in ("/", "0"))
        return self.names[first:last]  # "0" comes next after "/"

    def note(self, *, below: str = "") -> str:
        """Line that counts the places that are left out, by reason; empty if there are none.

        `below` chooses the places within that folder, and the folder itself.
        """
        chosen = {
            reason: [name for name in names if not below or f"{name}/".startswith(f"{below}/")]
            for reason, names in self.left_out.items()
        }
        counted = [
            count(reason, names, details=_suffixes(names) if reason is UNREAD else ())
            for reason, names in chosen.items()
            if names
        ]
        return f"left out: {'; '.join(counted)}" if counted else ""


def walk(
    root: Path,
    *,
    suffixes: tuple[str, ...],
    belongs: Callable[[str], bool] = lambda _: False,
    misplaced: Callable[[str], Reason | None] = lambda _: None,
) -> Walk:
    """All files below `root` with these suffixes, at any depth; links are followed.

    Below each entry of `root` a folder is read once, whatever links lead to the folder. Hidden
    names and `CLUTTER` are passed over. `belongs` says of a file's name below `root` whether
    the data set uses that file in another way: such a file is neither read nor left out.
    `misplaced` gives the reason for which a file with one of the suffixes is left out all the same.

    Raises: DataError if `root` itself cannot be read.
    """
    names, folders, left_out = list[str](), list[str](), dict[Reason, list[str]]()
    for name, place in _visible(root):
        reason: Reason | None = None
        if isinstance(place, Reason):
            reason = place
        elif place is Place.FOLDER:
            folders.append(name)
        elif not belongs(name):
            reason = misplaced(name) if name.lower().endswith(suffixes) else UNREAD
            if reason is None:
                names.append(name)
        if reason is not None:
            left_out.setdefault(reason, []).append(name)
    return Walk(
        root=root,
        names=sorted(names),
        folders=sorted(folders),
        left_out={
            reason: sorted(left_out[reason])
            for reason in sorted(left_out, key=lambda reason: reason.several)
        },
    )


def count(reason: Reason, names: Sequence[str], *, details: Sequence[str] = ()) -> str:
    """The number of places, the most frequent of their details in brackets, and an example.

    >>> count(UNREAD, ["a.tif"], details=[".tif"])
    '1 file that is not read (.tif): a.tif'
    >>> count(NOWHERE, ["a", "b"])
    '2 links that lead nowhere, such as a'
    """
    number, kinds = len(names), Counter(details)
    shown = [kind for kind, _ in kinds.most_common(SHOWN_DETAILS)]
    listed = ", ".join([*shown, *(["…"] if len(kinds) > len(shown) else [])])
    noun = reason.one if number == 1 else reason.several
    example = f"{':' if number == 1 else ', such as'} {names[0]}"
    return one_line(f"{number:,} {noun}{f' ({listed})' if listed else ''}{example}")


def is_clutter(name: str) -> bool:
    """Whether the last part of a path is hidden, or is made by a system and not by the user."""
    return name.startswith(".") or name.lower() in CLUTTER


def nfc(name: str) -> str:
    """The composed Unicode form, in which names are compared: disks and texts may differ in form.

    >>> len(nfc("cafe" + chr(0x301))), nfc("cafe" + chr(0x301)) == "caf" + chr(0xE9)
    (4, True)
    """
    return unicodedata.normalize("NFC", name)


def lookalike(name: str) -> str:
    """Alike for names that people take for each other: without case, blanks and invisible marks.

    >>> lookalike("Street Cat") == lookalike("street_cat"), lookalike("Cat ") == lookalike("cat")
    (False, True)
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) != "Cf")


def alike(names: Sequence[str], *, noun: str) -> str:
    """A line on names that people take for each other; empty without such names."""
    by_look = defaultdict[str, list[str]](list)
    for name in names:
        by_look[lookalike(name)].append(name)
    found = [same for same in by_look.values() if len(same) > 1]
    if not found:
        return ""
    one, other, *_ = found[0]
    number = sum(map(len, found))
    return f"{number:,} {noun} have names that look alike, such as {one!r} and {other!r}"


def _visible(root: Path) -> Iterator[tuple[str, Place | Reason]]:
    """Name below `root` and kind of every visible place, in no order."""
    read = set[tuple[str, str]]()  # (entry of the root, real path of a folder below the entry)
    # Links come last, so that a folder is read under its own name where it has one.
    waiting = [(False, "", os.path.realpath(root))]
    while waiting:
        _, folder, real = heapq.heappop(waiting)
        if folder:
            yield folder, Place.FOLDER
        if (known := (folder.partition("/")[0], real)) in read:
            yield folder, AGAIN
            continue
        read.add(known)
        try:
            with os.scandir(root / folder) as entries:
                inside = [entry for entry in entries if not is_clutter(entry.name)]
        except OSError as error:
            if not folder:
                raise unreadable(error) from None
            yield folder, CLOSED
            continue
        for entry in inside:
            name, place = f"{folder}/{entry.name}".removeprefix("/"), _kind(entry)
            if place is not Place.FOLDER:
                yield name, place
                continue
            leads_to = os.path.realpath(entry.path)
            if f"{real}/".startswith(f"{leads_to.rstrip('/')}/"):
                yield name, Place.FOLDER
                yield name, CIRCLE
            else:
                heapq.heappush(waiting, (entry.is_symlink(), name, leads_to))


def _kind(entry: "os.DirEntry[str]") -> Place | Reason:
    """Kind of an entry, where a link leads to the kind of its target."""
    try:
        if entry.is_dir():
            return Place.FOLDER
        if entry.is_file():
            return Place.FILE
        leads_nowhere = entry.is_symlink() and not Path(entry.path).exists()
    except OSError:  # a link to itself, or into a folder that is closed
        return NOWHERE
    return NOWHERE if leads_nowhere else SPECIAL


def _suffixes(names: Sequence[str]) -> list[str]:
    """The suffix of each file."""
    return [PurePosixPath(name).suffix.lower() or "no suffix" for name in names]
