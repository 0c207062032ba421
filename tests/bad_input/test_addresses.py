"""Addresses of stores and databases, most of them wrong, all of them with a secret."""

import shlex
from pathlib import Path

import pytest
from hypothesis import strategies as st

from gim_bench.cli.site import _runs_in_mlflow
from gim_bench.errors import ConfigError
from gim_bench.system.addresses import masked
from gim_bench.tracking.addresses import sync_command
from tests.bad_input.feed import (
    TEXTS,
    check_line,
    fed,
    folder_of_its_own,
    gim_bench,
)
from tests.tiny_suite import TOML

SECRET = "s3cretW0rd"  # noqa: S105 - nobody's
SCHEMES = st.sampled_from(
    ["http://", "https://", "postgresql://", "postgresql+psycopg://", "mysql://", "mssql://",
     "ftp://", "HTTP://", "nonsense://", "http:/", "://", ""]
)  # fmt: skip
ODD = st.sampled_from(["", "ann", "a%40b", "a/b", "a b", "a@b", "a:b", "%", "ä", "[", "\n"])
SECRETS = st.tuples(ODD, ODD).map(lambda around: f"{around[0]}{SECRET}{around[1]}")
# Nothing listens there, and no name has to be looked up.
HOSTS = ("127.0.0.1:9", "127.0.0.1:x", "127.0.0.1:99999", "[::1]:9", "[::1")
NO_HOST = ":9"  # a database may still be found, by an option
TAILS = st.one_of(st.just(""), st.sampled_from(["/name", "/a b", "//", "/?", "/#x", "/%zz"]), TEXTS)


@st.composite
def _addresses(draw: st.DrawFn, *, hosts: tuple[str, ...] = (*HOSTS, NO_HOST)) -> str:
    """An address with the secret as the password, as the token, or as an option."""
    scheme, host, tail = draw(SCHEMES), draw(st.sampled_from(hosts)), draw(TAILS)
    secret, user = draw(SECRETS), draw(ODD)
    form = draw(st.sampled_from(["password", "option", "both"]))
    who = "" if form == "option" else f"{user}:{secret}@"
    option = "" if form == "password" else f"?{draw(ODD)}password={secret}"
    return f"{scheme}{who}{host}{tail}{option}"


@fed(150, address=_addresses())
def test_no_address_is_shown_with_its_secret(address):
    shown = masked(address)
    assert SECRET not in shown
    assert masked(shown).lower() == shown.lower()
    command = sync_command(address, runs_dir=Path("runs"))
    assert SECRET not in command
    assert shlex.split(command)[-1] == shown


@fed(40, address=_addresses(hosts=HOSTS))
def test_a_store_that_cannot_be_used_is_named_in_a_line_without_its_secret(address):
    with folder_of_its_own() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "gim_bench.tracking.connection.import_mlflow", lambda: pytest.fail("imported")
        )
        (folder / "tiny.toml").write_text(TOML)
        answer = gim_bench("run", "--suite", "./tiny.toml", f"--tracking-uri={address}")
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith("error: ")
        check_line(answer.err.removeprefix("error: ").removesuffix("\n"))
        assert SECRET not in answer.err
        assert sorted(path.name for path in folder.iterdir()) == ["tiny.toml"]


@fed(40, address=_addresses().filter(lambda text: not text.startswith(("http://", "https://"))))
def test_an_address_without_pages_is_named_in_a_line_without_its_secret(address):
    with pytest.raises(ConfigError, match="has no pages to link to") as told:
        _runs_in_mlflow(address, [])
    check_line(str(told.value))
    assert SECRET not in str(told.value)


@fed(40, address=_addresses())
def test_a_database_that_cannot_be_used_is_named_in_a_line_without_its_secret(address):
    from gim_bench.sweep.studies import Studies

    with folder_of_its_own() as folder:
        with pytest.raises(ConfigError) as told:
            Studies(address)
        check_line(str(told.value))
        assert SECRET not in str(told.value)
        assert not list(folder.iterdir())
