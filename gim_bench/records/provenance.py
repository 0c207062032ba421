"""Where a number comes from: code, packages, hardware, settings of the machine."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import gim_bench
from gim_bench.seals import sha256_of

PACKAGES = (
    "gim-bench", "torch", "torchvision", "torchaudio", "numpy", "scikit-image", "espeakng-loader",
    "soundfile", "mlflow",
)  # fmt: skip


def now() -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe(device_name: str) -> dict[str, Any]:
    """Everything about this machine and this code that may explain a number later."""
    import torch

    device = torch.device(device_name)
    return {
        **git_state(),
        "versions": {"python": platform.python_version(), **_versions()},
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "driver": _driver() if device.type == "cuda" else None,
        "cuda": torch.version.cuda,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


@cache
def git_state() -> dict[str, Any]:
    """Commit of the checkout that the package is imported from; None outside of one."""
    folder = Path(gim_bench.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    # A package installed below some other repository is not of that repository.
    ours = commit is not None and _git(folder, "ls-files", "__init__.py") == "__init__.py"
    if not ours:
        return {"git_commit": None, "git_dirty": None}
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"git_commit": commit, "git_dirty": bool(status)}


def code_sha256(*kinds: type) -> str:
    """Of the sources of this package, and of the packages that `kinds` and their bases are of."""
    names = {cls.__module__.partition(".")[0] for kind in kinds for cls in kind.__mro__}
    ours = (names | {"gim_bench"}) - {"torch"} - sys.stdlib_module_names
    sums = [_sources_sha256(name) for name in sorted(ours)]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


@cache
def _sources_sha256(name: str) -> str:
    """Of every source file of the package, or of the module that stands alone, of that name."""
    module = sys.modules[name]
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not files and module.__file__ is not None:
        files = [Path(module.__file__)]
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()


@cache
def cpu_name() -> str:
    """The processor's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _driver() -> str | None:
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return None


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, stripped; None where there is no git, or no repository."""
    try:
        done = subprocess.run(  # noqa: S603 - a constant command
            # The user's own git. To look must lock nothing: who was killed would leave the lock.
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
