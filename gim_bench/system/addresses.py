"""Addresses of databases and servers: parsed, built, and shown without their secrets."""

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, quote_plus, unquote, unquote_plus, urlsplit

if TYPE_CHECKING:  # SQLAlchemy takes time to import, and a command line may need no address
    from sqlalchemy import URL

HIDDEN = "***"
# Options of an address that say where a database is and how to reach it. Others may be secret.
SHOWN = {"host", "hostaddr", "port", "dbname", "database", "user", "sslmode", "timeout", "mode",
         "cache", "uri", "connect_timeout", "charset", "driver"}  # fmt: skip
SHORTEST_SECRET = 3  # characters; hiding a letter wherever it stands would leave no text


def parse(address: str) -> "URL":
    """The parts of an address.

    Raises: ValueError, whose message quotes nothing of the address, if the address cannot be parsed
    or can be read in two ways.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url, split = make_url(address), _split(address)
        same = (url.host or "").lower() == (split.hostname or "") and url.port == split.port
        # The end of a user or of a password that holds a slash looks like a path.
        is_file = url.get_backend_name() == "sqlite"
        same = same and (is_file or "@" not in split.path)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise ValueError("it is no address of the form SCHEME://USER@HOST:PORT/NAME") from None
    if not same:
        raise ValueError(
            "it can be read in two ways; in a user, a password and an option write @ as %40, "
            "/ as %2F, : as %3A, ? as %3F and # as %23"
        )
    return url


def sqlite_address(path: Path) -> str:
    """The address of a SQLite file; characters such as ? and % are escaped."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def sqlite_file(url: "URL") -> Path | None:
    """The absolute path of the file that a SQLite address names.

    None if the address names no file, or is of another database.
    """
    name = url.database or ""
    is_file = name not in {"", ":memory:"} and not name.startswith("file:")
    return Path(name).absolute() if is_file and url.get_backend_name() == "sqlite" else None


def masked(address: str) -> str:
    """The address as it may be shown and kept: *** stands for user, password and tokens.

    >>> masked("http://ann:s3cret@host:5000")
    'http://***@host:5000'
    >>> masked("postgresql:///name?host=db&password=s3cret")
    'postgresql:///name?host=db&password=***'
    """
    try:
        parse(address)
    except ValueError:
        scheme, found, _ = address.partition("://")
        if found:
            return f"{scheme}://{HIDDEN}"
        return HIDDEN if re.search("[@=]", address) else address
    split = _split(address)
    _, at, place = split.netloc.rpartition("@")
    path, *rest = [split.path]
    if split.scheme.partition("+")[0] != "sqlite":  # a file's name may hold any character
        path, *rest = re.split("[;#&=]", split.path, maxsplit=1)
    options = [_masked_option(option) for option in split.query.split("&")]
    return (
        f"{split.scheme}://{HIDDEN + at if at else ''}{place}{path}{HIDDEN if rest else ''}"
        f"{'?' + '&'.join(options) if split.query else ''}"
    )


def concealed(text: str, *addresses: str) -> str:
    """A text of another program, in which the addresses and their secrets are masked.

    >>> concealed("GET http://ann:s3cret@host/api: not s3cret", "http://ann:s3cret@host")
    'GET http://***@host/api: not ***'
    """
    for address in addresses:
        text = text.replace(address, masked(address))
        for secret in sorted(_secrets(address), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
    return re.sub(r"\b([a-zA-Z][\w+.-]*://)[^\s/?#'\"<>@]+@", rf"\1{HIDDEN}@", text)


def _split(address: str) -> SplitResult:
    return urlsplit(address, allow_fragments=False)


def _masked_option(option: str) -> str:
    name, is_given, _ = option.partition("=")
    return option if is_given and name.lower() in SHOWN else f"{name + '=' if is_given else ''}***"


def _secrets(address: str) -> set[str]:
    """The hidden parts of an address as they are typed, decoded and encoded."""
    try:
        split = _split(address)
    except ValueError:  # such an address is refused before another program sees it
        return set()
    user, with_password, password = split.netloc.rpartition("@")[0].partition(":")
    typed = [password if with_password else user if split.scheme.startswith("http") else ""]
    for option in split.query.split("&"):
        name, is_given, value = option.partition("=")
        if name.lower() not in SHOWN:
            typed.append(value if is_given else name)
    decoded = [decode(text) for text in typed for decode in (unquote, unquote_plus)]
    encoded = [encode(text) for text in decoded for encode in (quote, quote_plus)]
    quoted = [repr(text)[1:-1] for text in decoded]
    return {t for t in (*typed, *decoded, *encoded, *quoted) if len(t) >= SHORTEST_SECRET}
