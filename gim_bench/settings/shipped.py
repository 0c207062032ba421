"""The suites and protocols that come with the package. Listing them imports no pydantic."""

import tomllib
from importlib import resources
from pathlib import Path


def shipped_suites() -> dict[str, Path]:
    """The TOML files of the shipped suites, by name."""
    folder = Path(str(resources.files("gim_bench") / "suites"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def shipped_protocols() -> list[str]:
    """The names of the shipped protocols."""
    file = resources.files("gim_bench") / "settings" / "protocols.toml"
    return list(tomllib.loads(file.read_text(encoding="utf-8")))
