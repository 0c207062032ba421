"""A real MLflow server on the loopback address, which tests stop, kill and ask what it holds."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.stores import empty_store

START_SECONDS = 600


class Server:
    """Within its block it answers at `uri`; what it holds stays in `folder` when it dies."""

    def __init__(self, folder: Path, *, store: str = "", artifacts: str = "") -> None:
        """Without `store` and `artifacts`, a SQLite file and a folder keep what the server gets."""
        self.folder = folder
        self._file = None if store else folder / "mlflow.db"
        self._store = store or f"sqlite:///{self._file}"
        self._artifacts = artifacts or str(folder / "artifacts")
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.port = unused.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        if self._file is not None:
            self._file.write_bytes(empty_store())
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def pause(self) -> None:
        """It takes connections, as the kernel does for it, and answers nobody."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def bring_back(self) -> None:
        """From death or a pause."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGCONT)
            self._wait()
        else:
            self._start()

    def content(self, experiment: str) -> list[dict[str, Any]]:
        """Everything about all runs of the experiment, deleted ones too, in a stable order."""
        from mlflow import MlflowClient
        from mlflow.entities import ViewType

        client = MlflowClient(tracking_uri=self.uri)
        (found,) = client.search_experiments(ViewType.ALL, filter_string=f"name = '{experiment}'")
        runs = client.search_runs([found.experiment_id], run_view_type=ViewType.ALL)
        return sorted((run.to_dictionary() for run in runs), key=lambda run: run["info"]["run_id"])

    def _start(self) -> None:
        store = ("--backend-store-uri", self._store)
        files = ("--serve-artifacts", "--artifacts-destination", self._artifacts)
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, *files, *where],
            cwd=self.folder,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait()

    def _wait(self) -> None:
        """Until it answers. Raises: TimeoutError."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with closing(HTTPConnection("127.0.0.1", self.port, timeout=5)) as asked:
                try:
                    asked.request("GET", "/health")
                    asked.getresponse()
                except (OSError, HTTPException):
                    time.sleep(0.2)
                else:
                    return
        raise TimeoutError(f"no MLflow server at {self.uri} after {START_SECONDS} s")


def names(content: list[dict[str, Any]]) -> list[str]:
    """Of the active runs, in alphabetical order."""
    return sorted(
        run["info"]["run_name"] for run in content if run["info"]["lifecycle_stage"] == "active"
    )


@contextmanager
def answering_with(status: int, body: str = "") -> Iterator[tuple[str, list[str]]]:
    """A server that is not MLflow's: its address, and the paths that it is asked for."""
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@contextmanager
def delayed(port: int, *, seconds: float) -> Iterator[str]:
    """The address of a proxy before the server at `port`, which holds back each answer."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as server:
                server.request(self.command, self.path, body, dict(self.headers))
                answer = server.getresponse()
                content = answer.read()
            time.sleep(seconds)
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names of http.server

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
