"""The part of a cell's settings that makes its key.

A key must not change when the package learns a new setting. So a setting that was added later is
part of a key only where it differs from its default. The settings in FIRST were in every key before
that rule: they are part of a key whatever their value. FIRST is complete, and never grows.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from gim_bench.settings.base import Settings
from gim_bench.settings.probing import with_kind

# By table; a kind of the table stands behind a colon.
_FIRST = {
    "": "augmentation capacity dataset device encoder info_nce method probe training",
    "augmentation": "kind mean std",
    "augmentation:crop": "crop flip grayscale",
    "augmentation:window": "samples",
    "capacity": "up_to",
    "dataset": "name",
    "dataset:audio_folder": "skip_bad_files test_fraction",
    "dataset:espeak": "speakers test_sentences train_sentences",
    "dataset:image_folder": "size",
    "dataset:librispeech": "skip_bad_files",
    "dataset:photos": "size stripes test_crops train_crops unlabelled_crops",
    "dataset:random_images": "images size",
    "encoder": "kind",
    "encoder:conv_gru": "context kernels paddings strides width",
    "encoder:resnet": "blocks patch_overlap patch_size width",
    "info_nce": "anchor_rows negatives prediction_steps skip_rows",
    "method": "ablation base gradient_flow like name objective only options recompute schedule "
    "trains_on uses_labels",
    "method.options:cpc": "autoregressor autoregressor_layers",
    "method.options:mfcc": "coefficients deltas",
    "probe": "batch_size fitted_steps learning_rates neighbours ridge_penalties standardise steps "
    "validation_fraction",
    "training": "batch_size budget compile epochs held_out kept_outputs learning_rate precision "
    "recompute schedule",
    "training.kept_outputs": "precision views",
}
FIRST = {table: frozenset(names.split()) for table, names in _FIRST.items()}
# The former name of each renamed setting: keys have it, and files may.
RENAMED = {"training.kept_outputs.epochs": "views"}
# The kind that tables had before they had kinds: such a kind is in no key.
KIND_BEFORE_KINDS = {"probe": "adam"}
# Facts about a method, for whoever reads its record, and what is refused: they decide no number.
NOT_KEYED = frozenset({"method.loss_unit", "method.base_uses_labels", "dataset.in_two_classes"})


def keyed(settings: Settings, *, table: str = "", kind: str = "") -> dict[str, Any]:
    """The JSON table of `settings`, without what was added later and stands at its default.

    `table` is the dotted name of the table, "" for a whole cell. The default of a setting that was
    added later stands for the behaviour before that setting: such a default never changes. The kind
    of a table says whose defaults these are, and is always there.
    """
    entries = settings.entries()
    kept = FIRST.get(table, frozenset()) | FIRST.get(f"{table}:{kind}", frozenset()) | {"kind"}
    found = {}
    for name, value in entries.items():
        path = f"{table}.{name}".lstrip(".")
        name_then = RENAMED.get(path, name)
        if name == "kind" and KIND_BEFORE_KINDS.get(table) == value:
            continue
        if path in NOT_KEYED or (name_then not in kept and settings.is_default(name)):
            continue
        # The options of a method are of the kind of that method.
        inner = entries["like"] if path == "method.options" else _kind(value)
        found[name_then] = _keyed_value(value, path, kind=inner)
    return found


def keyed_options(options: Settings, *, dataset: str) -> bytes:
    """The options of a data set as JSON, for fingerprints of data that is made from them."""
    table = keyed(options, table="dataset", kind=dataset)
    return json.dumps(table, separators=(",", ":")).encode()


def with_todays_names(table: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a suite's file, of a row or of a record, with today's names of all settings.

    A table of a probe has the kind that its settings imply: older files and records name none.

    >>> with_todays_names({"training": {"kept_outputs": {"views": 2}}})
    {'training': {'kept_outputs': {'epochs': 2}}}
    """
    found = dict(table)
    for path, former in RENAMED.items():
        found = _renamed(found, path.split("."), former=former)
    if isinstance(probe := found.get("probe"), dict):
        found["probe"] = with_kind(probe)
    return found


def _renamed(table: dict[str, Any], path: Sequence[str], *, former: str) -> dict[str, Any]:
    name, *rest = path
    if not rest:
        return {name if key == former else key: value for key, value in table.items()}
    inner = table.get(name)
    return table | ({name: _renamed(inner, rest, former=former)} if isinstance(inner, dict) else {})


def _kind(value: Any) -> str:
    """The kind of a table; the kind of a data set is its name."""
    return str(getattr(value, "kind", getattr(value, "name", "")))


def _keyed_value(value: Any, path: str, *, kind: str) -> Any:
    if isinstance(value, Settings):
        return keyed(value, table=path, kind=kind)
    if isinstance(value, tuple):
        return [_keyed_value(each, path, kind=_kind(each)) for each in value]
    return to_jsonable_python(value)
