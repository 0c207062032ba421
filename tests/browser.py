"""Pages as a browser shows them."""

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


def page(address: str, *, profile: Path, timeout_seconds: float) -> str:
    """The document of a page after its scripts have run, in a window that shows every chart."""
    assert CHROMIUM is not None
    shown = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            "--window-size=1600,2400", "--virtual-time-budget=60000",
            f"--user-data-dir={profile}", address,
        ],
        capture_output=True, text=True, timeout=timeout_seconds, check=False,
    )  # fmt: skip
    return shown.stdout
