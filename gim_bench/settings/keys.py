"""What of a cell's settings its key is made of.

A key must not change when the package learns a new setting. So a setting that was added later is
part of a key only where it differs from its default. The settings below were in every key before
that rule: they are part of a key whatever their value. The list is complete, and never grows.
"""

from typing import Any

from pydantic_core import to_jsonable_python

from gim_bench.settings.base import Settings

_FIRST = {
    "": "augmentation capacity dataset device encoder info_nce method probe training",
    "augmentation": "crop flip grayscale kind mean samples std",
    "capacity": "up_to",
    "dataset": "images name size skip_bad_files speakers stripes test_crops test_fraction "
    "test_sentences train_crops train_sentences unlabelled_crops",
    "encoder": "blocks context kernels kind paddings patch_overlap patch_size strides width",
    "info_nce": "anchor_rows negatives prediction_steps skip_rows",
    "method": "ablation base gradient_flow like name objective only options recompute schedule "
    "trains_on uses_labels",
    "method.options": "autoregressor autoregressor_layers coefficients deltas",
    "probe": "batch_size fitted_steps learning_rates neighbours ridge_penalties standardise steps "
    "validation_fraction",
    "training": "batch_size budget compile epochs held_out kept_outputs learning_rate precision "
    "recompute schedule",
    "training.kept_outputs": "precision views",
}
FIRST = frozenset(
    f"{table}.{name}".lstrip(".") for table, names in _FIRST.items() for name in names.split()
)
# Settings that have another name now, by the name that they have in keys.
RENAMED = {"training.kept_outputs.epochs": "views"}
# Facts about a method, for whoever reads its record: they decide no number.
NOT_KEYED = frozenset({"method.loss_unit"})


def keyed(settings: Settings, *, table: str = "") -> dict[str, Any]:
    """The JSON table of `settings`, without what was added later and stands at its default.

    `table` is the dotted name of the table, "" for a whole cell. The default of a setting that was
    added later stands for the behaviour before that setting: such a default never changes.
    """
    found = {}
    for name, value in settings.entries().items():
        path = f"{table}.{name}".lstrip(".")
        later = (
            path not in FIRST and path not in RENAMED and name != "kind"
        )  # which says whose defaults these are
        if path in NOT_KEYED or (later and settings.is_default(name)):
            continue
        found[RENAMED.get(path, name)] = _keyed_value(value, path)
    return found


def _keyed_value(value: Any, path: str) -> Any:
    if isinstance(value, Settings):
        return keyed(value, table=path)
    if isinstance(value, tuple):
        return [_keyed_value(each, path) for each in value]
    return to_jsonable_python(value)
