"""MLflow as a mirror of the records, with or without the command line.

    from gim_bench.records.folder import RunsFolder
    from gim_bench.tracking import Tracker, sync

    sync("quickstart", runs=RunsFolder(Path("runs")), tracker=Tracker("sqlite:///mlflow.db"))

`Tracker` writes to a store. `mirror_cell`, `mirror_sweeps` and `summarise` are for a run
that goes on when the store fails. No function prints.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gim_bench.tracking.addresses import DEFAULT_URI

if TYPE_CHECKING:
    from gim_bench.tracking.client import Tracker
    from gim_bench.tracking.following import followed
    from gim_bench.tracking.mirror import (
        Synced,
        mirror_cell,
        mirror_sweeps,
        summarise,
        sync,
    )

__all__ = [
    "DEFAULT_URI",
    "Synced",
    "Tracker",
    "followed",
    "mirror_cell",
    "mirror_sweeps",
    "summarise",
    "sync",
]


def __getattr__(name: str) -> Any:
    """Import the rest of the room on first use: options of the command line need `DEFAULT_URI`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = {"Tracker": "client", "followed": "following"}.get(name, "mirror")
    return getattr(import_module(f"{__name__}.{home}"), name)
