"""Settings of the probes: classifiers that are fitted on frozen features.

`[probe]` names the linear probe by its kind. A table that lacks a kind is Adam's if it has settings
of Adam's, as all tables had before there were kinds; else it is logistic regression's. Protocols
have further kinds of probes, which are not linear.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from gim_bench.settings.base import (
    Fraction,
    NotNegative,
    PositiveFloat,
    PositiveInt,
    Precision,
    Settings,
)

Grid = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]


class CommonProbeSettings(Settings):
    """Settings of every probe, whatever its kind."""

    # Features to mean 0 and deviation 1.
    standardise: bool = False
    validation_fraction: Fraction = 0.2
    # Where labels are for every 10 ms: how many to fit on, drawn at random; None: all.
    fitted_steps: PositiveInt | None = None
    ridge_penalties: Grid = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    neighbours: PositiveInt = 20
    # Number format of feature extraction; None: as in training.
    precision: Precision | None = None
    # Augmented copies of each labelled example that the linear probe is fitted on, in place of the
    # example itself; 0: no augmentation. Probes of every step are fitted without augmentation.
    augment: NotNegative = 0
    # Low-shot: share of the labelled images or recordings of each class that fit and validate, and
    # that encoders learn from which learn from labels.
    labelled_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    # Recordings are encoded as a whole, not in windows.
    whole_recordings: bool = False
    # Hyperparameters are chosen with an encoder that was not trained on the validation examples.
    unseen_validation: bool = False


class AdamProbeSettings(CommonProbeSettings):
    """A linear probe that Adam trains at every learning rate of a grid: the paper's protocol."""

    kind: Literal["adam"] = "adam"
    learning_rates: Grid
    steps: PositiveInt  # of Adam, alike for targets with few labels and with many
    batch_size: PositiveInt


class LogisticRegressionSettings(CommonProbeSettings):
    """Multinomial logistic regression by Newton's method, with every L2 penalty of a grid."""

    kind: Literal["logistic_regression"] = "logistic_regression"
    # λ in: mean cross-entropy + λ/2 · ‖weights‖²; biases are not penalised.
    penalties: Grid = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
    iterations: PositiveInt = 1000  # products with the Hessian at each penalty, at most
    # Decrease of the objective, in nats, that the last Newton step promises at most.
    tolerance: PositiveFloat = 1e-4
    standardise: bool = True
    precision: Precision = Precision.FP32
    unseen_validation: bool = True


class HiddenLayerSettings(CommonProbeSettings):
    """A classifier with one hidden layer, batch norm, ReLU and dropout, trained by Adam."""

    kind: Literal["hidden_layer"] = "hidden_layer"
    units: PositiveInt = 200
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    learning_rates: Grid
    steps: PositiveInt
    batch_size: Annotated[int, Field(gt=1)]  # batch norm needs two examples


class NearestNeighboursSettings(CommonProbeSettings):
    """Nearest neighbours by cosine: validation chooses nothing."""

    kind: Literal["nearest_neighbours"] = "nearest_neighbours"


AnyProbeSettings = (
    AdamProbeSettings | LogisticRegressionSettings | HiddenLayerSettings | NearestNeighboursSettings
)
KINDS: dict[str, type[CommonProbeSettings]] = {
    "adam": AdamProbeSettings,
    "logistic_regression": LogisticRegressionSettings,
}
ALL_KINDS: dict[str, type[AnyProbeSettings]] = {
    "adam": AdamProbeSettings,
    "logistic_regression": LogisticRegressionSettings,
    "hidden_layer": HiddenLayerSettings,
    "nearest_neighbours": NearestNeighboursSettings,
}
DEFAULT_KIND = "logistic_regression"


def implied_kind(table: Mapping[str, Any]) -> str | None:
    """The kind that the table names or that its settings imply; None if they imply none.

    >>> implied_kind({"steps": 200}), implied_kind({"neighbours": 5})
    ('adam', None)
    """
    if "kind" in table:
        return str(table["kind"])
    common = CommonProbeSettings.model_fields
    for kind, model in KINDS.items():
        if any(name in model.model_fields and name not in common for name in table):
            return kind
    return None


def with_kind(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the kind that its settings imply, if they imply a kind."""
    kind = implied_kind(table)
    return dict(table) if kind is None else {"kind": kind, **table}


def probe_laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The table `above` over the table `below`; a table of another kind inherits common settings.

    >>> probe_laid_over({"steps": 200, "neighbours": 5}, {"kind": "logistic_regression"})
    {'neighbours': 5, 'kind': 'logistic_regression'}

    A kind that protocols alone have stays where it has all settings of `above`:

    >>> probe_laid_over({"kind": "hidden_layer", "steps": 600}, {"steps": 11_700})
    {'kind': 'hidden_layer', 'steps': 11700}
    """
    kind = implied_kind(above) or implied_kind(below) or DEFAULT_KIND
    under = below.get("kind")
    if "kind" not in above and under in ALL_KINDS.keys() - KINDS.keys():
        kind = under if above.keys() <= ALL_KINDS[under].model_fields.keys() else kind
    return {**of_kind(kind, below), **above}


def of_kind(kind: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with this kind, without settings that only other kinds have."""
    others = {name for model in ALL_KINDS.values() for name in model.model_fields}
    others -= ALL_KINDS.get(kind, CommonProbeSettings).model_fields.keys()
    return {n: value for n, value in table.items() if n not in others} | {"kind": kind}


def _kind_of(value: Any) -> str:
    if isinstance(value, Mapping):
        return implied_kind(value) or DEFAULT_KIND
    return str(getattr(value, "kind", DEFAULT_KIND))


ProbeSettings = Annotated[
    Annotated[AdamProbeSettings, Tag("adam")]
    | Annotated[LogisticRegressionSettings, Tag("logistic_regression")],
    Discriminator(_kind_of),
]
