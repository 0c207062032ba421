"""Whatever is wrong with a suite is said in one line: what was asked, where, and what is known."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gim_bench.errors import ConfigError
from tests.settings.tables import SPEECH, SUITE, complaint, load, refused, write


@pytest.mark.parametrize(
    ("override", "said"),
    [
        # unknown keys: which, where, and the nearest known one
        ("sedes=3", ["no setting 'sedes'", "mine.toml", "Did you mean 'seeds'?", "Available: "]),
        (
            "training.epoch=3",
            ["no setting 'epoch'", "training.epoch", "Did you mean 'epochs'?", "learning_rate"],
        ),
        ("trainig.epochs=3", ["no setting 'trainig'", "Did you mean 'training'?"]),
        ("augmentation.corp=3", ["no setting 'corp'", "augmentation.corp", "mean 'crop'?"]),
        ("training.kept_outputs.epoch=3", ["training.kept_outputs.epoch", "mean 'epochs'?"]),
        (
            'training.optimiser={kind="sgd", momentun=0.9}',
            ["training.optimiser.momentun", "Did you mean 'momentum'?", "nesterov"],
        ),
        # wrong types: what stands there
        ("training.epochs=ten", ["training.epochs = 'ten'", "integer"]),
        ("training.epochs=true", ["training.epochs = True", "integer"]),
        ("training.epochs=1.5", ["training.epochs = 1.5", "integer"]),
        ('training.epochs="10"', ["training.epochs = '10'", "integer"]),
        ("training.learning_rate=fast", ["training.learning_rate = 'fast'", "number"]),
        ("training.learning_rate=true", ["training.learning_rate = True", "number"]),
        ("augmentation.flip=1", ["augmentation.flip = 1", "boolean"]),
        ("augmentation.flip=yes", ["augmentation.flip = 'yes'", "boolean"]),
        ("augmentation.crop=wide", ["augmentation.crop = 'wide'", "integer"]),
        ("augmentation.mean=0.4", ["augmentation.mean = 0.4", "array"]),
        ("augmentation.mean=[true]", ["augmentation.mean.0 = True", "number"]),
        ("encoder=3", ["encoder = 3", "table"]),
        ("encoder.kind=3", ["encoder.kind = 3", "string"]),
        ("dataset=photos", ["dataset = 'photos'", "table"]),
        ("info_nce=3", ["info_nce = 3", "table"]),
        ("objective=3", ["objective = 3", "table"]),
        ("objective.barlow_twins=3", ["objective.barlow_twins = 3", "table"]),
        ("methods=gim", ["methods = 'gim'", "array"]),
        ("name=7", ["name = 7", "string"]),
        ("published=loewe2019/table1", ["published = 'loewe2019/table1'", "array"]),
        ("training.schedule=sideways", ["training.schedule = 'sideways'", "joint", "interleaved"]),
        ("training.optimiser=adam", ["training.optimiser = 'adam'", "table"]),
        ("method.cpc=3", ["method.cpc = 3", "table"]),
        # values that mean nothing
        ("training.epochs=-1", ["training.epochs = -1"]),
        ("training.batch_size=0", ["training.batch_size = 0"]),
        ("training.learning_rate=0", ["training.learning_rate = 0"]),
        ("training.learning_rate=nan", ["training.learning_rate"]),
        ("training.learning_rate=inf", ["training.learning_rate"]),
        ("augmentation.mean=[nan]", ["augmentation.mean"]),
        ("augmentation.mean=[inf]", ["augmentation.mean"]),
        ("augmentation.std=[0]", ["augmentation.std.0 = 0"]),
        ("augmentation.crop=0", ["augmentation.crop = 0"]),
        ("augmentation.mean=[0.4, 0.4, 0.4]", ["augmentation", "1 number"]),
        ("augmentation.grayscale=false", ["augmentation", "3 number"]),
        ("probe.validation_fraction=1", ["probe.validation_fraction = 1"]),
        ("probe.learning_rates=[]", ["probe.learning_rates"]),
        ("probe.fitted_steps=0", ["probe.fitted_steps = 0"]),
        ("methods=[]", ["methods"]),
        ("seeds=0", ["seeds = 0"]),
        ("name=../escape", ["name = '../escape'"]),
        # kinds: unknown, missing, and settings of another kind
        ("augmentation.kind=windows", ["augmentation.kind = 'windows'", "'crop'", "'window'"]),
        ("augmentation={crop=32}", ["'augmentation.kind' is missing: crop or window"]),
        ("augmentation.kind=window", ["augmentation.mean = [0.4]", "number", "more)"]),
        ("encoder={width=8}", ["'encoder.kind' is missing", "gim_bench list encoders"]),
        ("dataset={size=8}", ["'dataset.name' is missing", "gim_bench list datasets"]),
        (
            "training.optimiser.kind=sdg",
            ["training.optimiser.kind = 'sdg'", "'adam', 'adamw', 'sgd', 'lars'"],
        ),
        (
            "training.optimiser.momentum=0.9",
            ["'training.optimiser.kind' is missing: adam or adamw or sgd or lars"],
        ),
        (
            "training.rate_schedule.warmup_epochs=1",
            ["'training.rate_schedule.kind' is missing: constant or cosine or steps"],
        ),
        (
            'training.rate_schedule={kind="cosine", warmup_epochs=1}',
            ["training: rate_schedule.warmup_epochs reaches epoch 1", "over after 1"],
        ),
        # forms that are no KEY=VALUE
        ("training.epochs", ["'training.epochs' is not KEY=VALUE", "--set training.epochs=10"]),
        ("=3", ["'=3' is not KEY=VALUE"]),
        ("", ["'' is not KEY=VALUE"]),
        ("training.=3", ["not KEY=VALUE"]),
        (".epochs=3", ["not KEY=VALUE"]),
        ("training..epochs=3", ["not KEY=VALUE"]),
        ("name.x=3", ["'name' is a value, not a table"]),
        ("methods.0=gim", ["'methods' is a value, not a table"]),
        ("training.epochs=", ["training.epochs = ''", "integer"]),
    ],
)
def test_a_bad_set_value_is_one_line_that_says_what_and_where(tmp_path, override, said):
    message = complaint(tmp_path, override)
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("augmentation.samples=20000.0", ["augmentation.samples = 20000.0", "integer"]),
        ("augmentation.samples=20500", ["augmentation", "samples = 20500", "multiple of 160"]),
        ("augmentation.samples=0", ["augmentation.samples = 0"]),
        ("augmentation.std=0", ["augmentation.std = 0"]),
        ("augmentation.mean=[0.0]", ["augmentation.mean", "number"]),
    ],
)
def test_a_bad_setting_of_speech_is_one_line_too(tmp_path, override, said):
    message = complaint(tmp_path, override, suite=SPEECH)
    for part in said:
        assert part in message


@given(text=st.text(max_size=20))
@settings(max_examples=50)
def test_any_text_for_a_number_is_answered_in_one_line(text, tmp_path_factory):
    """Or is taken where it is a number, as " 7 " is."""
    try:
        load(tmp_path_factory.mktemp("suite"), f"training.epochs={text}")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - some texts are fine


@pytest.mark.parametrize(
    "missing",
    [
        "name",
        "dataset",
        "encoder",
        "training",
        "training.epochs",
        "probe.steps",
        "augmentation.crop",
        "augmentation.mean",
    ],
)
def test_a_missing_setting_is_named(tmp_path, missing):
    table = copy.deepcopy(SUITE)
    *parents, leaf = missing.split(".")
    holder = table[parents[0]] if parents else table
    del holder[leaf]
    message = refused(write(tmp_path, suite=table))
    assert message == f"mine.toml: the setting {missing!r} is missing"


def test_missing_settings_of_a_table_share_a_line(tmp_path):
    path = write(tmp_path, suite=SUITE | {"probe": {"kind": "adam", "steps": 9}})
    assert refused(path) == (
        "mine.toml: the settings 'probe.learning_rates', 'probe.batch_size' are missing"
    )


def test_an_unknown_setting_explains_the_missing_ones_of_its_kind(tmp_path):
    path = write(tmp_path, suite=SUITE | {"probe": {"kind": "adam", "penalties": [1.0]}})
    message = refused(path)
    assert message.startswith("no setting 'penalties' (mine.toml: probe.penalties, of kind 'adam')")
    assert message.endswith("(and 3 more)")


def test_further_mistakes_are_counted(tmp_path):
    message = complaint(tmp_path, "training.epochs=-1", "training.batch_size=0", "seeds=0")
    assert message.endswith("(and 2 more)")


def test_a_mistake_made_with_set_is_not_blamed_on_the_file_alone(tmp_path):
    assert "mine.toml with --set" in complaint(tmp_path, "training.epochs=-1")


def test_tables_that_are_nested_too_deep_are_one_line(tmp_path):
    message = complaint(tmp_path, f"objective.{'.'.join('a' * 3_000)}=1")
    assert message.endswith("tables or lists are nested too deep: flatten them")
