"""Users with and without a name, a home and folders that they can write."""

import getpass
import os
import pwd
import tempfile
from pathlib import Path

import pytest
from hypothesis import strategies as st

from gim_bench.system.user import cache_folder, settle_user
from tests.bad_input.feed import fed, folder_of_its_own, result_or_line

NAMES = st.sampled_from([None, "", "ann", "a b", "ä", "a\nb", "../.."])
# Below the folder of the test: "file" is a file, all others are missing or can be written.
PLACES = st.sampled_from([None, "", "home", "file", "file/x", "missing/home", "caf\u00e9", "a b"])
VARIABLES = ("HOME", "XDG_CACHE_HOME", "GIM_BENCH_CACHE")


@fed(
    120,
    names=st.fixed_dictionaries(dict.fromkeys(("LOGNAME", "USER"), NAMES)),
    places=st.fixed_dictionaries(dict.fromkeys(VARIABLES, PLACES)),
    temporary=st.sampled_from(["tmp", "file", "nowhere"]),
    is_known=st.booleans(),
)
def test_every_user_has_a_name_and_a_folder_that_is_told_or_one_line(
    names, places, temporary, is_known
):
    with folder_of_its_own() as folder, pytest.MonkeyPatch.context() as patch:
        _become(folder, patch, names=names, places=places, is_known=is_known)
        patch.setattr(tempfile, "tempdir", str(folder / temporary))
        settle_user()
        assert getpass.getuser()
        said = []
        with result_or_line():
            found = cache_folder(say=said.append)
            if named := os.environ.get("GIM_BENCH_CACHE"):
                assert (found, said) == (Path(named), [])
                return
            found.mkdir(parents=True, exist_ok=True)
            (found / "a").write_text("it can be written")
            assert folder in found.parents
            assert bool(said) == (folder / temporary in found.parents)


def _become(folder, patch, *, names, places, is_known):
    """Take the identity in an environment of its own, which is undone after the test."""

    def entry(number):
        if not is_known:
            raise KeyError(f"getpwuid(): uid not found: {number}")
        return pwd.struct_passwd(("ann", "x", number, 0, "", str(folder / "home"), "/bin/sh"))

    (folder / "tmp").mkdir()
    (folder / "home").mkdir()
    (folder / "file").touch()
    for name in ("LNAME", "USERNAME"):
        patch.delenv(name, raising=False)
    values = names | {name: place and str(folder / place) for name, place in places.items()}
    for name, value in values.items():
        patch.setenv(name, "")  # or what `settle_user` sets would stay
        patch.delenv(name)
        if value is not None:
            patch.setenv(name, value)
    patch.setattr(pwd, "getpwuid", entry)
