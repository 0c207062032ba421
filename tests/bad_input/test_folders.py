"""Folders with anything in them: what goes in is read, refused or named."""

import os
from contextlib import suppress
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image

from gim_bench.contract import Split
from gim_bench.datasets.images.decoding import SUFFIXES
from gim_bench.datasets.images.image_folder import ImageFolder
from gim_bench.datasets.walk import is_clutter, walk
from tests.bad_input.feed import fed, folder_of_its_own, result_or_line

PARTS = st.one_of(
    st.sampled_from(["train", "test", "Train", "unlabeled", "left", "Left", "a b", "a", "b", "x"]),
    st.sampled_from(["1.png", "2.tif", "c.PNG", "3.jpg", "caf\u00e9", "cafe\u0301"]),
    st.sampled_from(["Thumbs.db", "@eaDir", ".hidden"]),
    st.binary(min_size=1, max_size=4)
    .map(os.fsdecode)
    .filter(lambda name: not set(name) & {"/", "\0", ";"} and name not in (".", "..")),
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
TARGETS = st.sampled_from(
    [".", "..", "../..", "a", "../a", "gone", "1.png", "/", "b/x", "../train"]
)
KINDS = st.sampled_from(["file", "folder", "pipe", "link"])
TREES = st.lists(st.tuples(NAMES, KINDS, TARGETS), max_size=12)


def _grow(root: Path, tree: list[tuple[str, str, str]], *, content: bytes) -> None:
    """Make the tree's places, but for names that are taken or that the system does not have."""
    root.mkdir(exist_ok=True)
    for name, kind, target in tree:
        place = root / name
        if place.parent.resolve() != place.parent:
            continue  # a link on the way leads elsewhere
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            match kind:
                case "file":
                    with place.open("xb") as file:  # opening a pipe to write would wait
                        file.write(content)
                case "folder":
                    place.mkdir()
                case "pipe":
                    os.mkfifo(place)
                case "link":
                    place.symlink_to(target)


def _visible(root: Path) -> set[str]:
    """Names of all visible files and links, none of which is followed."""
    found = set()
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not is_clutter(name)]
        links = [name for name in folders if Path(place, name).is_symlink()]
        here = [name for name in [*files, *links] if not is_clutter(name)]
        found |= {str(Path(place, name).relative_to(root)) for name in here}
    return found


@fed(200, tree=TREES)
def test_every_visible_place_is_read_or_left_out_once(tree):
    with folder_of_its_own() as folder:
        root = folder.resolve() / "mine"
        _grow(root, tree, content=b"content")
        found = walk(root, suffixes=SUFFIXES)
        left_out = [name for names in found.left_out.values() for name in names]
        assert _visible(root) <= {*found.names, *found.folders, *left_out}
        assert len({*found.names, *left_out}) == len(found.names) + len(left_out)
        assert bool(found.note()) == bool(left_out)
        assert "\n" not in found.note()


def _png(folder: Path) -> bytes:
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "one.png")
    return (folder / "one.png").read_bytes()


@fed(150, tree=TREES)
def test_every_visible_file_of_an_image_folder_is_an_example_or_is_counted(tree):
    with folder_of_its_own() as folder:
        root = folder.resolve() / "mine"
        content = _png(folder)
        fixed = [f"{split}/{name}/0.png" for split in ("train", "test") for name in ("l", "r")]
        _grow(root, [(name, "file", "") for name in fixed] + tree, content=content)
        mine = ImageFolder(
            options=ImageFolder.Options(size=8), data_dir=root, cache_dir=folder / "cache"
        )
        with result_or_line():
            mine.prepare()
            seen = walk(root, suffixes=SUFFIXES)
            examples = sum(len(mine.split(split)) for split in (Split.TRAIN, Split.TEST))
            if (root / "unlabeled").exists():
                examples += len(mine.split(Split.UNLABELLED))
            counted = sum(int(part.split()[0]) for part in _counts(mine.notes()))
            left_out = sum(map(len, seen.left_out.values()))
            assert examples + counted == len(seen.names) + left_out


def _counts(notes: list[str]) -> list[str]:
    """The parts of the note on what was left out, each of which begins with a number."""
    said = [note.removeprefix("left out: ") for note in notes if note.startswith("left out: ")]
    return [part for note in said for part in note.split("; ")]
