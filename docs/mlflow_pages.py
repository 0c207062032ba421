"""Pictures of MLflow's pages for docs/mlflow.md, by a server on this machine and headless Chromium.

python docs/mlflow_pages.py sqlite:///mlflow.db quickstart docs/mlflow
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

START_SECONDS = 600
SCRIPT_SECONDS = 60  # of a page's own clock, which waits for no wall clock
SIZE = "1600,1000"
WIDTH = 1188  # pixels, without MLflow's assistant on the right
COLOURS = 64


def main(store: str, suite: str, folder: str) -> None:
    """Write a picture of each page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no Chromium or Chrome on the PATH: install one")
    Path(folder).mkdir(parents=True, exist_ok=True)
    with served(store) as address:
        for name, page in pages(address, suite).items():
            shoot(browser, f"{address}/{page}", file=Path(folder) / f"{name}.png")


def pages(address: str, suite: str) -> dict[str, str]:
    """The pages of an experiment and of its newest isolated cell, by the name of the picture."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name(f"gim_bench/{suite}")
    if experiment is None:
        sys.exit(f"the store has no experiment gim_bench/{suite}: run the suite first")
    number = experiment.experiment_id
    trained = "tags.kind = 'cell' and tags.gradient_flow = 'isolated'"
    cells = client.search_runs([number], trained, max_results=1)
    whole = f"#/experiments/{number}"
    shown = {"runs": f"{whole}/runs", "models": f"{whole}/models"}
    if cells:
        run = f"{whole}/runs/{cells[0].info.run_id}"
        shown |= {"run": run, "curves": f"{run}/model-metrics"}
    return shown


def shoot(browser: str, address: str, *, file: Path) -> None:
    """Write a picture of a page after its scripts have run, in few colours."""
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(  # noqa: S603 - a browser of this machine, at a page of this machine
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                f"--window-size={SIZE}",
                f"--virtual-time-budget={SCRIPT_SECONDS * 1000}",
                f"--screenshot={file.absolute()}",
                address,
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    with Image.open(file) as shown:
        picture = shown.convert("RGB").crop((0, 0, WIDTH, shown.height)).quantize(COLOURS)
    picture.save(file, optimize=True)


@contextmanager
def served(store: str) -> Iterator[str]:
    """The address of an MLflow server at a store, on the loopback address."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    where = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    process = subprocess.Popen(  # noqa: S603 - MLflow of this environment
        [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, *where],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/health")
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def _wait_for(address: str) -> None:
    """Until the address answers. Raises: TimeoutError."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - the loopback address
                return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"no answer from {address} after {START_SECONDS} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
