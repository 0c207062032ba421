"""The suites that come with the package. Listing them imports no pydantic."""

from importlib import resources
from pathlib import Path


def shipped_suites() -> dict[str, Path]:
    """The TOML files of the shipped suites, by name."""
    folder = Path(str(resources.files("gim_bench") / "suites"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
