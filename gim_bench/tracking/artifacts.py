"""Artifacts of runs: written to a folder, from which they go to wherever the store keeps them."""

from collections.abc import Set as AbstractSet
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from gim_bench.tracking.addresses import for_mlflow
from gim_bench.tracking.entries import PATCHES, Entry
from gim_bench.tracking.plots import FIGURES, figures_of

if TYPE_CHECKING:  # MLflow takes seconds to import
    from mlflow.store.artifact.artifact_repo import ArtifactRepository


def repository_of(artifact_uri: str, *, store: str) -> "ArtifactRepository":
    """The place of a run's artifacts.

    MLflow's client asks the store for the run and its models before each list of artifacts, and
    for the run before the first artifact. The place is known from the run.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(artifact_uri, tracking_uri=for_mlflow(store))


def names_in(repository: "ArtifactRepository") -> set[str]:
    """The names of the artifacts of a run, those in folders included."""
    found = {item.path for item in repository.list_artifacts()}
    for folder in found & {PATCHES, FIGURES}:
        found |= {item.path for item in repository.list_artifacts(folder)}
    return found


def write_artifacts(
    entry: Entry, wanted: AbstractSet[str], *, folder: Path
) -> list[tuple[Path, str | None]]:
    """Write the texts and figures among the `wanted` artifacts of an entry to a folder.

    Return the path of each artifact, pictures included, and its folder within the run.
    """
    paths = {name: folder / name for name in wanted & {*entry.files, *figures_of(entry)}}
    for path in paths.values():
        path.parent.mkdir(exist_ok=True)
    for name in wanted & entry.files.keys():
        paths[name].write_text(entry.files[name], encoding="utf-8")
    for name, draw in figures_of(entry).items():
        if name in wanted:
            draw().savefig(paths[name])
    pictures = {f"{PATCHES}/{path.name}": path for path in entry.pictures}
    paths |= {name: path for name, path in pictures.items() if name in wanted}
    return [(path, _folder_of(name)) for name, path in sorted(paths.items())]


def _folder_of(name: str) -> str | None:
    """The folder of an artifact within its run; None for the run's own folder."""
    parent = str(PurePosixPath(name).parent)
    return None if parent == "." else parent
