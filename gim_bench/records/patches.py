"""Pictures of the patches that excite neurons most, beside the record of the cell they belong to.

The folder `patches` of a cell holds a PNG file for each module, and `patches.json`, written last:
what the pictures show, their sha256, and the sha256 of the weights that they were made from. They
are no part of the record: pictures that are lost or damaged cost no training. Pictures of another
encoder, altered pictures and cut-off ones do not count.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gim_bench.records.record import Record
from gim_bench.seals import sealed, unsealed
from gim_bench.settings.base import Settings
from gim_bench.system.atomic import write_atomically

FOLDER = "patches"
FACTS = "patches.json"
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.png$")]


class Picture(Settings):
    """A grid of patches: a row for each neuron of a module, the strongest patch first."""

    file: FileName
    sha256: str
    module: str
    neurons: tuple[int, ...]  # numbers of the channels, from 0
    patches: int  # of each neuron
    size: tuple[int, int]  # pixels of the largest patch: rows, columns
    places: tuple[tuple[tuple[int, int], ...], ...]  # (test image, place in the grid) of each patch


class Pictures(Settings):
    """All pictures of a cell, with their origin."""

    key: str
    weights: dict[str, str]  # of the cell: {file: sha256}
    images: int  # that were looked at
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The pictures of a cell as they lie on disk."""

    facts: Pictures
    folder: Path
    contents: Mapping[str, bytes]  # PNG files by name

    @property
    def files(self) -> Sequence[Path]:
        return [self.folder / picture.file for picture in self.facts.pictures]


def save_pictures(facts: Pictures, *, contents: Mapping[str, bytes], folder: Path) -> Drawn:
    """Save the pictures of the cell whose folder is `folder`. Raises: OSError."""
    place = folder / FOLDER
    (place / FACTS).unlink(missing_ok=True)  # the facts of earlier pictures
    for file, content in contents.items():
        write_atomically(place / file, content)
    table = sealed(facts.model_dump(mode="json"))
    write_atomically(place / FACTS, (json.dumps(table) + "\n").encode())
    return Drawn(facts=facts, folder=place, contents=contents)


def pictures_of(record: Record, *, folder: Path) -> Drawn | None:
    """The pictures of a cell; None if they are missing, altered, or from another encoder."""
    place = folder / FOLDER
    try:
        table = unsealed((place / FACTS).read_bytes())
        facts = Pictures.model_validate_json(json.dumps(table))
        contents = {p.file: (place / p.file).read_bytes() for p in facts.pictures}
    except (OSError, ValueError):
        return None
    whole = all(sha256(contents[p.file]) == p.sha256 for p in facts.pictures)
    known = {file: record.files.get(file) for file in facts.weights}
    if not whole or facts.key != record.key or facts.weights != known:
        return None
    return Drawn(facts=facts, folder=place, contents=contents)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
