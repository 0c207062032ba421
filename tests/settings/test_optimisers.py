"""Settings of optimisers and rates: defaults, and what is refused in one line."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from gim_bench.settings.optimisers import (
    AdamSettings,
    AdamWSettings,
    ConstantRate,
    CosineRate,
    LARSSettings,
    OptimiserSettings,
    RateSettings,
    SGDSettings,
    StepsRate,
    check_rate_fits,
)

OPTIMISERS = TypeAdapter(OptimiserSettings)
RATES = TypeAdapter(RateSettings)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('{"kind": "adam"}', AdamSettings()),
        ('{"kind": "adamw", "weight_decay": 0.1}', AdamWSettings(weight_decay=0.1)),
        ('{"kind": "sgd", "momentum": 0}', SGDSettings(momentum=0)),
        ('{"kind": "lars", "excludes": ["norms"]}', LARSSettings(excludes=("norms",))),
    ],
)
def test_the_kind_tells_the_optimiser(table, expected):
    assert OPTIMISERS.validate_json(table) == expected


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ('{"kind": "constant"}', ConstantRate()),
        ('{"kind": "cosine", "warmup_epochs": 10}', CosineRate(warmup_epochs=10)),
        ('{"kind": "steps", "at": [1, 2.5], "factor": 0.1}', StepsRate(at=(1, 2.5), factor=0.1)),
    ],
)
def test_the_kind_tells_the_schedule_of_the_rate(table, expected):
    assert RATES.validate_json(table) == expected


@pytest.mark.parametrize(
    ("settings", "torch_s"),
    [(AdamSettings(), torch.optim.Adam), (AdamWSettings(), torch.optim.AdamW)],
)
def test_betas_and_eps_are_torch_s(settings, torch_s):
    defaults = torch_s([torch.zeros(1)]).defaults
    assert (settings.betas, settings.eps) == (defaults["betas"], defaults["eps"])


@pytest.mark.parametrize(
    "settings", [AdamSettings(), AdamWSettings(), SGDSettings(), LARSSettings()]
)
def test_no_optimiser_decays_unless_told(settings):
    assert settings.weight_decay == 0.0
    assert settings.excludes == ("biases", "norms")


def test_the_order_of_what_is_excluded_changes_no_key():
    assert SGDSettings(excludes=("norms", "biases", "norms")) == SGDSettings()


@pytest.mark.parametrize(
    "table",
    [
        '{"kind": "adam", "momentum": 0.9}',
        '{"kind": "adam", "betas": [0.9, 1.0]}',
        '{"kind": "adamw", "weight_decay": -0.1}',
        '{"kind": "sgd", "momentum": 1.0}',
        '{"kind": "sgd", "excludes": ["weights"]}',
        '{"kind": "lars", "trust_coefficient": 0}',
        '{"kind": "rmsprop"}',
    ],
)
def test_settings_that_no_optimiser_takes_are_refused(table):
    with pytest.raises(ValidationError):
        OPTIMISERS.validate_json(table)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValidationError, match="nesterov = true needs a momentum above 0"):
        SGDSettings(momentum=0, nesterov=True)


@pytest.mark.parametrize("at", [(2, 1), (1, 1)])
def test_steps_that_do_not_increase_are_refused(at):
    with pytest.raises(ValidationError, match="must increase"):
        StepsRate(at=at, factor=0.5)


@pytest.mark.parametrize(
    "table",
    [
        '{"kind": "steps", "at": [], "factor": 0.5}',
        '{"kind": "steps", "at": [0], "factor": 0.5}',
        '{"kind": "cosine", "final_share": 1.1}',
        '{"kind": "cosine", "warmup_epochs": -1}',
    ],
)
def test_settings_that_no_schedule_takes_are_refused(table):
    with pytest.raises(ValidationError):
        RATES.validate_json(table)


@pytest.mark.parametrize(
    ("rate", "setting"),
    [
        (CosineRate(warmup_epochs=10), "warmup_epochs"),
        (StepsRate(at=(5, 10), factor=0.5), "at"),
    ],
)
def test_a_rate_that_training_is_too_short_for_is_refused_in_one_line(rate, setting):
    check_rate_fits(rate, epochs=11)
    for epochs in (10, 1):
        with pytest.raises(ValueError, match=f"^rate_schedule.{setting} reaches epoch 10, but "):
            check_rate_fits(rate, epochs=epochs)


@pytest.mark.parametrize(
    "rate",
    [ConstantRate(), CosineRate(), CosineRate(warmup_epochs=2), StepsRate(at=(3,), factor=1)],
)
def test_a_rate_fits_where_nothing_is_trained(rate):
    check_rate_fits(rate, epochs=0)
