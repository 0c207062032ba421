"""Users without a name, without a home, or with a home that cannot be written."""

import getpass
import os
import stat
import tempfile
from pathlib import Path

import pytest

from gim_bench.contract import Split
from gim_bench.datasets.images.random_images import RandomImages
from gim_bench.errors import ConfigError
from gim_bench.system.user import cache_folder, settle_user


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user number without a name, in an empty environment; temporary files lie in `tmp`."""

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # or what a test sets would stay
        monkeypatch.delenv(name)
    monkeypatch.delenv("GIM_BENCH_CACHE", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


@pytest.fixture
def said():
    return []


# case 5
def test_a_user_number_without_a_name_gets_one(nobody):
    with pytest.raises(KeyError):
        getpass.getuser()
    settle_user()
    assert getpass.getuser() == f"uid-{os.getuid()}"


def test_a_user_with_a_name_and_a_home_keeps_them(monkeypatch):
    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.setenv("HOME", "/home/ann")
    settle_user()
    assert (os.environ["LOGNAME"], os.environ["HOME"]) == ("ann", "/home/ann")


# case 6
def test_a_user_without_a_home_gets_a_private_one(nobody):
    with pytest.raises(RuntimeError):
        Path.home()
    settle_user()
    assert Path.home() == nobody / "tmp" / f"gim-bench-{os.getuid()}"
    assert stat.S_IMODE(Path.home().stat().st_mode) == 0o700


def test_without_temporary_files_there_is_no_home_and_no_error(nobody, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(nobody / "nowhere"))
    settle_user()
    assert "HOME" not in os.environ


# case 6
@pytest.mark.parametrize("settled", [True, False])
def test_a_user_without_a_home_caches_in_a_private_temporary_folder_and_is_told(
    settled, nobody, said
):
    if settled:
        settle_user()
    folder = cache_folder(say=said.append)
    assert folder == nobody / "tmp" / f"gim-bench-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (line,) = said
    assert f"are kept in {folder}, because this user has no home folder; GIM_BENCH_CACHE" in line
    assert cache_folder(say=said.append) == folder


def test_a_home_that_cannot_be_written_is_no_place_for_a_cache(nobody, said, monkeypatch):
    (nobody / "home").write_text("a file, which not even root can make folders in")
    monkeypatch.setenv("HOME", str(nobody / "home"))
    assert cache_folder(say=said.append).parent == nobody / "tmp"
    assert f"because {nobody}/home/.cache/gim-bench cannot be written" in said[0]


def test_a_home_is_the_place_and_nothing_is_made_there_yet(nobody, said, monkeypatch):
    (nobody / "home").mkdir()
    monkeypatch.setenv("HOME", str(nobody / "home"))
    assert cache_folder(say=said.append) == nobody / "home" / ".cache" / "gim-bench"
    assert (said, list((nobody / "home").iterdir())) == ([], [])


def test_a_folder_that_is_named_is_the_cache(nobody, said, monkeypatch):
    monkeypatch.setenv("GIM_BENCH_CACHE", "mine")
    assert (str(cache_folder(say=said.append)), said) == ("mine", [])


@pytest.mark.parametrize("spoilt", ["a link", "open to all", "a file"])
def test_a_temporary_folder_that_others_may_have_made_is_refused(spoilt, nobody, said):
    """Its arrays would be read as if this user had decoded them."""
    folder = nobody / "tmp" / f"gim-bench-{os.getuid()}"
    if spoilt == "a link":
        folder.symlink_to(nobody)
    elif spoilt == "a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(ConfigError, match=r"no home folder, nor .*: name a folder with GIM_BENCH"):
        cache_folder(say=said.append)


# case 6
def test_no_cache_is_looked_for_where_none_is_needed(nobody, monkeypatch):
    monkeypatch.setattr("gim_bench.system.user.cache_folder", pytest.fail)
    dataset = RandomImages(options=RandomImages.Options(images=4, size=8), data_dir=None)
    dataset.prepare()
    dataset.fingerprint()
    dataset.verify()
    assert len(dataset.split(Split.TEST)) > 0
