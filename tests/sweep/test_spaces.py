"""The values of `--space`: settings, and their ranges or choices."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from gim_bench.errors import ConfigError
from gim_bench.settings.suites import setting_value
from gim_bench.sweep.spaces import parse_space
from tests.tiny_suite import tiny_cell, tiny_suite


def axis(text):
    (found,) = parse_space([text])
    return found


@pytest.fixture
def config(tmp_path):
    """The configuration of the tiny suite's CPC."""
    return tiny_cell(tiny_suite(tmp_path), "cpc").config


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("training.learning_rate=1e-4..1e-2", FloatDistribution(1e-4, 1e-2, log=True)),
        ("training.learning_rate=1e-3..9e-3", FloatDistribution(1e-3, 9e-3)),
        ("training.held_out=0.0..0.5", FloatDistribution(0.0, 0.5)),
        ("training.learning_rate=1e-3..1", FloatDistribution(1e-3, 1.0, log=True)),
        ("training.epochs=2..8", IntDistribution(2, 8)),
        ("training.batch_size=16..160", IntDistribution(16, 160, log=True)),
        ("training.batch_size = 16, 32", CategoricalDistribution(("16", "32"))),
        ("encoder.blocks=[1,1],[2,1]", CategoricalDistribution(("[1,1]", "[2,1]"))),
        ("method.gim.a=b,b,c", CategoricalDistribution(("b", "c"))),
    ],
)
def test_a_space_is_a_range_or_a_list(text, distribution):
    """A range of ten times or more is drawn from on a logarithmic scale."""
    assert axis(text).distribution == distribution


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (["training.epochs"], "is not NAME=VALUES"),
        (["training.epochs="], "is not NAME=VALUES"),
        (["training.epochs=3"], "leaves no choice"),
        (["training.epochs=3,3"], "leaves no choice"),
        (["training.epochs=8..2"], "a range is two numbers LOW..HIGH, the lower one first"),
        (["training.epochs=2..2"], "a range is two numbers"),
        (["training.epochs=2..many"], "a range is two numbers"),
        (["training.learning_rate=1e-3..inf"], "a range is two numbers"),
        (["trainin.epochs=2..8"], "no table 'trainin'"),
        (["probe.steps=10..20"], "the others say how trials are measured"),
        (["dataset.size=30,40"], "the others say how trials are measured"),
        (["seeds=1..3"], "no table 'seeds'"),
        (["training.epochs=2..8", "training.epochs=4..9"], "names a setting twice"),
    ],
)
def test_a_text_that_is_no_space_is_refused_in_one_line(texts, complaint):
    with pytest.raises(ConfigError) as told:
        parse_space(texts)
    assert complaint in str(told.value)
    assert "\n" not in str(told.value)


def test_the_order_of_the_options_does_not_matter():
    texts = ["training.epochs=2..8", "training.batch_size=16,32"]
    assert parse_space(texts) == parse_space(texts[::-1])


@pytest.mark.parametrize("value", [1e-5, 0.1 + 0.2, 3, "joint", "[1, 2]"])
def test_a_setting_is_given_just_the_value_that_was_drawn(value):
    name, _, text = axis("training.learning_rate=1..2").override(value).partition("=")
    assert name == "training.learning_rate"
    assert setting_value(text) == (value if value != "[1, 2]" else [1, 2])


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("training.learning_rate=1e-4..1e-2", 1e-3),
        ("training.learning_rate=1e-2,0.001", "0.001"),
        ("training.epochs=0..3", 1),
        ("encoder.blocks=[2,2],[1,1]", "[1,1]"),
        ("encoder.patch_size=8.0..9.0", 8.0),
        ("training.schedule=joint,interleaved", "interleaved"),
        ("method.cpc.autoregressor_layers=1..8", 4),
    ],
)
def test_the_suites_own_value_is_a_point_of_the_space(text, own, config):
    found = axis(text).point(config)
    assert found == own
    assert type(found) is type(own)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("training.learning_rate=1e-2..1e-1", "0.001, is not in it, .* --set training.learning"),
        ("training.learning_rate=0..1", "0.001, is not in it"),
        ("training.batch_size=16,32", "own value for cpc, 20, is not in it"),
        ("info_nce.anchor_rows=1,2", "None, is not in it"),
        ("training.kept_outputs.views=1,2", "None, is not in it"),
        ("method.gim.autoregressor_layers=1..4", "no setting of cpc; sweep gim alone"),
    ],
)
def test_a_space_without_the_suites_own_value_is_refused(text, complaint, config):
    with pytest.raises(ConfigError, match=complaint):
        axis(text).point(config)
