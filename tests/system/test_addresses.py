"""Addresses are parsed and built by libraries, and shown in one masked form."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gim_bench.system.addresses import concealed, masked, parse, sqlite_address, sqlite_file


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://host:5000/path", "http://host:5000/path"),
        ("sqlite:////my%20data/x@y;z=1.db?timeout=5", "sqlite:////my%20data/x@y;z=1.db?timeout=5"),
        ("postgresql://user@host/sweeps", "postgresql://***@host/sweeps"),
        ("http://ann:s3cret@127.0.0.1:5000", "http://***@127.0.0.1:5000"),
        ("https://s3cret@host", "https://***@host"),
        (
            "postgresql:///name?host=/tmp&user=ann&password=s3cret",
            "postgresql:///name?host=/tmp&user=ann&password=***",
        ),
        ("postgresql://h/d?sslpassword=s3cret&port=1", "postgresql://h/d?sslpassword=***&port=1"),
        ("http://host/?access_token=s3cret", "http://host/?access_token=***"),
        ("http://host/?s3cret", "http://host/?***"),
        ("http://host/path;token=s3cret", "http://host/path***"),
        ("http://host/#token=s3cret", "http://host/***"),
        ("postgresql://ann:s3cret@[::1]:5432/d", "postgresql://***@[::1]:5432/d"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Ds3cret", "mssql+pyodbc:///?odbc_connect=***"),
        # Addresses that are refused: the scheme alone is beyond doubt.
        ("http://ann:s3/cret@host", "http://***"),
        ("http://ann:s3#cret@host", "http://***"),
        ("http://ann:s3?cret@host", "http://***"),
        ("http://ann:s3@cret@host", "http://***"),
        ("http://ann:s3cret", "http://***"),
        ("http:/ann:s3cret@host", "***"),
        ("host=h password=s3cret", "***"),
        ("mlruns", "mlruns"),
    ],
)
def test_an_address_is_shown_without_user_password_and_tokens(address, shown):
    assert masked(address) == shown


@pytest.mark.parametrize(
    "address",
    [
        "http://ann:s3/cret@host",
        "http://a/nn:s3cret@host",
        "http://ann:s3@cret@host",
        "postgresql://host:1/d?password=p@ss",
    ],
)
def test_an_address_that_can_be_read_in_two_ways_is_refused_without_quoting_it(address):
    with pytest.raises(ValueError, match="write @ as %40") as refused:
        parse(address)
    assert "cret" not in str(refused.value)


def test_an_address_whose_port_is_no_number_is_refused_without_quoting_it():
    with pytest.raises(ValueError, match="it is no address") as refused:
        parse("http://ann:s3cret")
    assert "s3cret" not in str(refused.value)


@given(
    user=st.text(min_size=1, max_size=8),
    password=st.text(min_size=3, max_size=12).filter(lambda text: text.strip("*")),
    form=st.sampled_from(["{u}:{p}@host:1/x", "host:1/x?user={u}&password={p}", "{p}@host"]),
    quoted=st.booleans(),
)
def test_no_text_of_another_program_holds_a_password_typed_decoded_or_encoded(
    user, password, form, quoted
):
    from urllib.parse import quote

    encode = (lambda text: quote(text, safe="")) if quoted else str
    address = f"https://{form.format(u=encode(user), p=encode(password))}"
    assert masked(address).count("host") <= 1
    try:
        parse(address)
    except ValueError:
        assert masked(address) == "https://***"
        return
    if quoted:  # otherwise the password may end within: the parser says where
        told = concealed(f"<{password}> <{quote(password)}> <{address}>", address)
        hidden = told.replace(masked(address), "")
        assert password not in hidden.replace("***", "")


# case 19
@pytest.mark.parametrize("name", ["a b.db", "lr?1/a.db", "50%/a.db", "my%20drive/a.db", "a#b@c.db"])
def test_a_sqlite_address_leads_back_to_its_file(name, tmp_path):
    assert sqlite_file(parse(sqlite_address(tmp_path / name))) == tmp_path / name
    assert sqlite_file(parse(sqlite_address(Path(name)))) == Path.cwd() / name


def test_a_database_of_a_server_is_no_file_here():
    assert sqlite_file(parse("postgresql://localhost/sweeps")) is None


@pytest.mark.parametrize("name", ["", ":memory:", "file:x?mode=memory&uri=true"])
def test_a_database_in_memory_has_no_file(name):
    assert sqlite_file(parse(f"sqlite:///{name}")) is None
