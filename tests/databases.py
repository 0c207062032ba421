"""A real PostgreSQL on the loopback address, which asks for a password."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_SECONDS = 300


@contextmanager
def postgresql() -> Iterator[str]:
    """The address of a server of its own. Its password is in PGPASSWORD alone, within the block.

    Skips where PostgreSQL or its driver is not installed.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = Path(found[-1] if found else shutil.which("initdb") or "")
    if not initdb.is_file():
        pytest.skip("PostgreSQL's initdb is not installed")
    pytest.importorskip("psycopg")
    user = {"user": "nobody", "extra_groups": []} if os.getuid() == 0 else {}  # root is refused
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    folder, password = Path(tempfile.mkdtemp(prefix="pg-")), secrets.token_hex(16)
    data, secret = folder / "data", folder / "password"
    secret.write_text(password)
    if user:
        for path in (folder, secret):
            shutil.chown(path, "nobody")
    create = [initdb, "-D", data, "-U", "tester", "-A", "scram-sha-256", "--pwfile", secret]
    subprocess.run([*create, "--no-sync"], check=True, cwd=folder, **user, **quiet)
    secret.unlink()
    port = _free_port()
    options = ["listen_addresses=127.0.0.1", f"port={port}", "fsync=off"]
    server = subprocess.Popen(
        [initdb.with_name("postgres"), "-D", data, "-k", folder]
        + [part for option in options for part in ("-c", option)],
        cwd=folder,
        **user,
        **quiet,
    )
    try:
        _wait(server, port)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGPASSWORD", password)
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # stops without waiting for connections
        server.wait(timeout=START_SECONDS)
        shutil.rmtree(folder)


def _free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def _wait(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Until the database takes connections."""
    import psycopg

    deadline = time.monotonic() + START_SECONDS
    while True:
        assert server.poll() is None
        assert time.monotonic() < deadline
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="nobody", password="-").close()  # noqa: S106
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):  # it answers
                return
        time.sleep(0.1)
