"""Origin of a record's numbers: code, packages, hardware and settings of the machine."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import gim_bench
from gim_bench.seals import sha256_of

PACKAGES = (
    "gim-bench", "torch", "torchvision", "torchaudio", "numpy", "scipy", "scikit-learn",
    "scikit-image", "pillow", "espeakng-loader", "soundfile", "mlflow",
)  # fmt: skip


def now() -> str:
    """The time now, in ISO 8601 and UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe(device_name: str) -> dict[str, Any]:
    """Properties of this machine and this code that may explain a number later."""
    import torch

    device = torch.device(device_name)
    return {
        **git_state(),
        "versions": {"python": platform.python_version(), **_versions()},
        "host": platform.node(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_identity": f"{cpu_identity()}, {torch.backends.cpu.get_cpu_capability()}",
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
    """Commit of the checkout that holds the package, and whether files differ from the commit.

    Files of the package that are in no commit count, and files beside the package do not. Both are
    None outside a checkout; the second is also None where git does not answer.
    """
    folder = Path(gim_bench.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    # A package that is installed below another repository is no part of that repository.
    ours = commit is not None and _git(folder, "ls-files", "__init__.py") == "__init__.py"
    if not ours:
        return {"git_commit": None, "git_dirty": None}
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    others = _git(folder, "ls-files", "--others", "--exclude-standard", ".")
    dirty = None if status is None or others is None else bool(status or others)
    return {"git_commit": commit, "git_dirty": dirty}


def changes(facts: Mapping[str, Any]) -> str:
    """Words on whether files differed from a record's commit; empty if none did."""
    if facts.get("git_commit") is None or facts.get("git_dirty") is False:
        return ""
    return ("" if facts.get("git_dirty") else "perhaps ") + "with uncommitted changes"


def code_sha256(*kinds: type) -> str:
    """The sha256 of all sources of this package and of the packages of `kinds` and their bases."""
    names = {cls.__module__.partition(".")[0] for kind in kinds for cls in kind.__mro__}
    ours = (names | {"gim_bench"}) - {"torch"} - sys.stdlib_module_names
    sums = [_sources_sha256(name) for name in sorted(ours)]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


@cache
def _sources_sha256(name: str) -> str:
    """The sha256 of all source files of the package or single-file module called `name`."""
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


@cache
def cpu_identity() -> str:
    """Facts by which libraries choose their kernels, and so the last bit of a result.

    The model name does not suffice: virtual machines call several generations "AMD EPYC".
    """
    names = {"vendor_id", "cpu family", "model", "stepping", "cache size",
             "CPU implementer", "CPU variant", "CPU part", "CPU revision"}  # fmt: skip
    facts = []
    try:
        for line in Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines():
            name, _, value = (part.strip() for part in line.partition(":"))
            if name in names:
                facts.append(f"{name} {value}")
            elif name in {"flags", "Features"}:
                flags = " ".join(sorted(value.split()))
                facts.append(f"{name} {hashlib.sha256(flags.encode()).hexdigest()[:8]}")
    except OSError:
        pass
    return ", ".join(facts) or cpu_name()


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
    """The output of git, stripped; None without git or without a repository."""
    try:
        done = subprocess.run(  # noqa: S603 - a constant command
            # The user's own git, without locks: a killed process would leave its lock behind.
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
