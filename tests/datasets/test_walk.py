"""Everything visible below a folder is read, or left out and counted."""

import os
import socket
from pathlib import Path

import pytest

from gim_bench.datasets import walk as module
from gim_bench.datasets.walk import (
    AGAIN,
    CIRCLE,
    CLOSED,
    CLUTTER,
    SPECIAL,
    UNREAD,
    Reason,
    walk,
)
from gim_bench.errors import DataError


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"content")


def seen(root: Path, **how):
    return walk(root, suffixes=(".png",), **how)


def test_files_with_the_suffixes_are_read_at_any_depth_in_the_order_of_their_names(tmp_path):
    put(tmp_path, "b.png", "a/z.PNG", "a/x/y.png")
    found = seen(tmp_path)
    assert found.names == ["a/x/y.png", "a/z.PNG", "b.png"]
    assert found.paths == [tmp_path / name for name in found.names]
    assert found.folders == ["a", "a/x"]
    assert found.left_out == {}
    assert found.note() == ""


def test_files_of_other_formats_are_left_out_and_counted_by_suffix(tmp_path):
    put(tmp_path, "a/1.png", "a/2.tif", "a/3.TIF", "a/4.txt", "README")
    found = seen(tmp_path)
    assert found.names == ["a/1.png"]
    assert found.left_out == {UNREAD: ["README", "a/2.tif", "a/3.TIF", "a/4.txt"]}
    assert found.note() == (
        "left out: 4 files that are not read (.tif, no suffix, .txt), such as README"
    )


def test_one_place_is_named_without_such_as(tmp_path):
    put(tmp_path, "a/1.tif")
    assert seen(tmp_path).note() == "left out: 1 file that is not read (.tif): a/1.tif"


def test_many_suffixes_are_cut_short(tmp_path):
    put(tmp_path, *(f"a.{suffix}" for suffix in "vwxyz"))
    assert "5 files that are not read (.v, .w, .x, …), such as a.v" in seen(tmp_path).note()


def test_a_note_may_be_of_one_folder(tmp_path):
    put(tmp_path, "a/1.tif", "ab/2.tif")
    assert seen(tmp_path).note(below="a") == "left out: 1 file that is not read (.tif): a/1.tif"


def test_a_name_with_a_line_end_stays_in_its_line(tmp_path):
    put(tmp_path, "a\nb.tif")
    assert r"a\nb.tif" in seen(tmp_path).note()


# case 12
@pytest.mark.parametrize("name", [*sorted(CLUTTER), ".DS_Store", ".hidden", "._1.png", "THUMBS.DB"])
@pytest.mark.parametrize("place", ["{}", "{}/x.png", "a/{}/000.png/x.png", "a/b/{}"])
def test_clutter_is_passed_over_at_every_depth_as_a_file_and_as_a_folder(tmp_path, name, place):
    put(tmp_path, "a/1.png", place.format(name))
    found = seen(tmp_path)
    assert (found.names, found.left_out) == (["a/1.png"], {})


def test_a_file_that_belongs_to_the_data_set_otherwise_is_neither_read_nor_left_out(tmp_path):
    put(tmp_path, "a/1.png", "phones.txt", "a/phones.txt")
    found = seen(tmp_path, belongs=lambda name: name == "phones.txt")
    assert found.names == ["a/1.png"]
    assert found.left_out == {UNREAD: ["a/phones.txt"]}


def test_a_misplaced_file_is_left_out_for_the_reason_that_the_data_set_gives(tmp_path):
    loose = Reason("file beside the folders", "files beside the folders")
    put(tmp_path, "a/1.png", "2.png", "3.txt")
    found = seen(tmp_path, misplaced=lambda name: None if "/" in name else loose)
    assert found.names == ["a/1.png"]
    assert found.note() == (
        "left out: 1 file beside the folders: 2.png; 1 file that is not read (.txt): 3.txt"
    )


# -- links -----------------------------------------------------------------------------------------


def test_links_to_files_and_folders_are_followed(tmp_path):
    put(tmp_path, "elsewhere/1.png", "elsewhere/b/2.png", "mine/3.png")
    (tmp_path / "mine" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine" / "4.png").symlink_to(tmp_path / "mine" / "3.png")
    assert seen(tmp_path / "mine").names == ["3.png", "4.png", "a/1.png", "a/b/2.png"]


def test_links_that_lead_nowhere_or_to_themselves_are_counted(tmp_path):
    put(tmp_path, "1.png")
    for name, target in {"a.png": "gone.png", "b": "gone", "c.png": "c.png"}.items():
        (tmp_path / name).symlink_to(target)
    found = seen(tmp_path)
    assert found.names == ["1.png"]
    assert found.note() == "left out: 3 links that lead nowhere, such as a.png"


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_a_link_back_to_a_folder_above_is_counted_and_not_followed(tmp_path, target):
    put(tmp_path / "mine", "a/1.png")
    (tmp_path / "mine" / "a" / "up").symlink_to(target)
    found = seen(tmp_path / "mine")
    assert found.names == ["a/1.png"]
    assert found.left_out == {CIRCLE: ["a/up"]}


def test_a_folder_is_read_under_its_own_name_and_links_to_it_are_counted(tmp_path):
    put(tmp_path, "a/z/1.png")
    (tmp_path / "a" / "b").symlink_to("z")
    found = seen(tmp_path)
    assert found.names == ["a/z/1.png"]
    assert found.note() == "left out: 1 folder that is read under another name: a/b"


def test_entries_of_the_root_may_share_a_folder(tmp_path):
    """Train images, for example, may serve as unlabelled images by a link."""
    put(tmp_path, "train/cat/1.png")
    (tmp_path / "unlabeled").symlink_to("train")
    assert seen(tmp_path).names == ["train/cat/1.png", "unlabeled/cat/1.png"]


def test_links_among_many_folders_take_no_longer_than_the_folders(tmp_path):
    """Followed along every way, the links below are 2 ** 40 folders."""
    for number in range(40):
        put(tmp_path, f"a/{number}/{number}.png")
        for name in ("x", "y"):
            (tmp_path / "a" / str(number) / name).symlink_to(f"../{number + 1}")
    assert len(seen(tmp_path).names) == 40


# -- places that cannot be read --------------------------------------------------------------------


def closed(monkeypatch, folder):
    """Root, who may run the tests, can read any folder: only a patch closes one."""
    scandir = os.scandir

    def forbidden(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(module.os, "scandir", forbidden)


def test_a_folder_that_cannot_be_read_is_counted(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "b/2.png")
    closed(monkeypatch, tmp_path / "b")
    found = seen(tmp_path)
    assert (found.names, found.folders) == (["a/1.png"], ["a", "b"])
    assert found.left_out == {CLOSED: ["b"]}


def test_a_root_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    closed(monkeypatch, tmp_path)
    with pytest.raises(DataError, match=r"cannot read .* \(Permission denied\)"):
        seen(tmp_path)


def test_pipes_and_sockets_are_counted_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "b.png"))
        assert seen(tmp_path).left_out == {SPECIAL: ["a.png", "b.png"]}


def test_the_order_in_which_a_disk_lists_its_entries_changes_nothing(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "b/2.png", "b/c/3.png", "4.tif")
    for name in ("a/x", "a/y"):
        (tmp_path / name).symlink_to(tmp_path / "b")
    forwards, scandir = seen(tmp_path), os.scandir

    class Backwards:
        def __init__(self, path):
            with scandir(path) as entries:
                self._entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self._entries)

        def __exit__(self, *exception): ...

    monkeypatch.setattr(module.os, "scandir", Backwards)
    assert seen(tmp_path) == forwards
    assert forwards.left_out[AGAIN] == ["a/y"]
