"""A trained encoder as a folder that can be published, and read without gim_bench."""

import json
from pathlib import Path
from typing import Any

from gim_bench.api.card import UNKNOWN, model_card, title_of
from gim_bench.api.encoders import WEIGHTS, Trained, load
from gim_bench.api.standalone import CONSTANTS, standalone
from gim_bench.cells.defaults import with_defaults
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import module_name
from gim_bench.records.folder import RECORD
from gim_bench.system.atomic import write_atomically


def export(cell: str | Path, output: str | Path, *, licence: str = UNKNOWN) -> Path:
    """Write the encoder of a finished cell with a model card into a new folder, and return it.

    The folder holds README.md (a model card as Hugging Face reads it), `encoder.safetensors`,
    `config.json`, the sealed `record.json`, and `encoder.py`, which needs PyTorch and safetensors
    alone. `load` reads the folder, too. Nothing in it is pickled. `licence` is that of the weights,
    as Hugging Face names it: "mit", "cc-by-4.0".

    Raises: ConfigError if `load` would, if the folder holds something, or if PyTorch cannot export
    the encoder.
    """
    source, folder = Path(cell), Path(output)
    trained = load(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there and not empty: name a new folder")
    plain = standalone(trained, title=title_of(trained.record))
    files = {name: (source / name).read_bytes() for name in (RECORD, WEIGHTS)}
    files["encoder.py"] = plain.source.encode()
    if plain.constants is not None:
        files[CONSTANTS] = plain.constants
    files["config.json"] = (json.dumps(_config(trained), indent=2) + "\n").encode()
    files["README.md"] = model_card(trained, folder=source, licence=licence).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return folder


def _config(trained: Trained) -> dict[str, Any]:
    """What a program asks of the encoder, and all settings of its cell."""
    record = trained.record
    return {
        "model_type": "gim_bench",
        "method": record.method,
        "suite": record.suite,
        "seed": record.seed,
        "features": {module_name(m): dim for m, dim in enumerate(trained.module.dims)},
        "input_shape": list(trained.augmentation.shape),
        "settings": with_defaults(record.config),
    }
