"""Suites are read strictly, complaints take one line, and a key changes with every setting."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import tomli_w
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gim_bench.encoders.conv_gru import ConvGRUSettings
from gim_bench.encoders.resnet import ResNetSettings
from gim_bench.errors import ConfigError
from gim_bench.settings import schema as config
from gim_bench.settings.augmentations import CropSettings, WindowSettings
from gim_bench.settings.schema import CellConfig, Schedule, Suite, grid_rows
from gim_bench.settings.suites import load_suite, parse, shipped_suites

SUITE: dict[str, Any] = {
    "name": "mine",
    "summary": "a suite for tests",
    "protocol": "none",
    "methods": ["gim", "random_init"],
    "dataset": {"name": "photos", "size": 36},
    "encoder": {
        "kind": "resnet",
        "width": 8,
        "blocks": [1, 1, 1],
        "patch_size": 8,
        "patch_overlap": 4,
    },
    "augmentation": {"kind": "crop", "crop": 32, "mean": [0.4], "std": [0.25]},
    "training": {"epochs": 1, "batch_size": 32, "learning_rate": 2e-3},
    "probe": {"learning_rates": [1e-3, 1e-2], "steps": 5, "batch_size": 128},
}
SPEECH: dict[str, Any] = SUITE | {
    "dataset": {"name": "espeak"},
    "encoder": {"kind": "conv_gru", "width": 64, "context": 64},
    "augmentation": {"kind": "window"},
    "info_nce": {"prediction_steps": 12, "skip_rows": 0, "negatives": 10, "anchor_rows": 128},
}


def write(folder, text: str | None = None, *, suite: dict[str, Any] = SUITE) -> str:
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps(suite) if text is None else text, encoding="utf-8")
    return str(path)


def load(folder, *overrides: str, suite: dict[str, Any] = SUITE) -> Suite:
    return load_suite(write(folder, suite=suite), overrides=overrides)


def complaint(folder, *overrides: str, suite: dict[str, Any] = SUITE) -> str:
    """What load_suite says about these overrides: one line, or the test fails."""
    with pytest.raises(ConfigError) as caught:
        load(folder, *overrides, suite=suite)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


# -- what can be said ----------------------------------------------------------------------------


def test_a_suite_is_read_from_its_file(tmp_path):
    suite = load(tmp_path)
    assert suite.methods == ("gim", "random_init")
    assert suite.encoder.blocks == (1, 1, 1)
    assert suite.training.learning_rate == 2e-3


def test_what_a_suite_leaves_out_is_the_paper_s_setting(tmp_path):
    suite = load(tmp_path)
    info_nce = suite.info_nce
    assert (info_nce.prediction_steps, info_nce.skip_rows, info_nce.negatives) == (5, 1, 16)
    assert suite.probe.validation_fraction == 0.2
    assert suite.augmentation.flip
    assert suite.augmentation.grayscale
    assert info_nce.anchor_rows is None
    paper = ResNetSettings(kind="resnet")
    crops = CropSettings(kind="crop", crop=64, mean=(0.4,), std=(0.25,))
    assert (paper.width, paper.blocks, grid_rows(paper, crops)) == (64, (3, 4, 6), [7, 7, 7])


def test_what_a_suite_of_speech_leaves_out_is_the_paper_s_setting_too():
    """Table 5 of the paper, but for the fifth kernel, which only gives 128 steps if it is 4."""
    paper, windows = ConvGRUSettings(kind="conv_gru"), WindowSettings(kind="window")
    assert (paper.width, paper.context) == (512, 256)
    assert paper.kernels == (10, 8, 4, 4, 4)
    assert paper.strides == (5, 4, 2, 2, 2)
    assert paper.paddings == (2, 2, 2, 2, 1)
    assert windows.samples == 20_480


def test_the_time_steps_of_the_paper_s_layers_are_those_that_it_prints():
    paper, windows = ConvGRUSettings(kind="conv_gru"), WindowSettings(kind="window")
    assert grid_rows(paper, windows) == [4095, 1023, 512, 257, 128, 128]


@given(
    kernels=st.tuples(*[st.integers(1, 12)] * 3),
    paddings=st.tuples(*[st.integers(0, 4)] * 3),
    steps=st.integers(1, 6),
)
@settings(max_examples=50)
def test_time_steps_are_counted_as_the_convolutions_that_they_come_from(kernels, paddings, steps):
    """Against torch, layer by layer; where a kernel is wider than its input, there are none."""
    strides = (10, 4, 4)
    encoder = ConvGRUSettings(kind="conv_gru", kernels=kernels, strides=strides, paddings=paddings)
    x = torch.zeros(1, 1, 160 * steps)
    expected = []
    for kernel, stride, padding in zip(kernels, strides, paddings, strict=True):
        if x.shape[2] + 2 * padding < kernel:
            return
        x = F.conv1d(x, torch.zeros(1, 1, kernel), stride=stride, padding=padding)
        expected.append(x.shape[2])
    rows = grid_rows(encoder, WindowSettings(kind="window", samples=160 * steps))
    assert rows == [*expected, expected[-1]]


def test_options_of_the_data_set_are_what_its_table_holds_besides_the_name(tmp_path):
    suite = load(tmp_path, "dataset.stripes=6")
    assert suite.dataset.name == "photos"
    assert suite.dataset.options == {"size": 36, "stripes": 6}


@pytest.mark.parametrize(
    ("override", "section", "setting", "expected"),
    [
        ("training.epochs=10", "training", "epochs", 10),
        ("training.learning_rate=1e-4", "training", "learning_rate", 1e-4),
        ("training.learning_rate=1", "training", "learning_rate", 1.0),
        ("training.schedule=joint", "training", "schedule", Schedule.JOINT),
        ('training.schedule="joint"', "training", "schedule", Schedule.JOINT),
        ("augmentation.flip=false", "augmentation", "flip", False),
        ("encoder.blocks=[3, 4, 6]", "encoder", "blocks", (3, 4, 6)),
        ("probe.learning_rates=[0.1]", "probe", "learning_rates", (0.1,)),
        ("info_nce.negatives=8", "info_nce", "negatives", 8),
        (" training . epochs = 10", "training", "epochs", 10),
    ],
)
def test_a_set_value_is_laid_over_the_file(tmp_path, override, section, setting, expected):
    found = getattr(getattr(load(tmp_path, override), section), setting)
    assert found == expected
    assert type(found) is type(expected)


def test_of_two_set_values_the_later_one_counts(tmp_path):
    assert load(tmp_path, "training.epochs=10", "training.epochs=3").training.epochs == 3


def test_a_set_value_reaches_top_level_and_method_tables(tmp_path):
    suite = load(tmp_path, 'methods=["cpc"]', "seeds=4", "method.cpc.autoregressor=none")
    assert (suite.methods, suite.seeds) == (("cpc",), 4)
    assert suite.method == {"cpc": {"autoregressor": "none"}}


def test_settings_cannot_be_written_to(tmp_path):
    with pytest.raises(ValidationError, match="frozen"):
        load(tmp_path).training.epochs = 2


@pytest.mark.parametrize("name", sorted(shipped_suites()))
def test_a_shipped_suite_can_be_read_and_is_named_like_its_file(name):
    assert load_suite(name).name == name


def test_a_suite_may_name_the_tables_of_several_papers(tmp_path):
    published = load(tmp_path, 'published=["loewe2019/table3", "other/table1"]').published
    assert published == ("loewe2019/table3", "other/table1")
    assert load(tmp_path).published == ()


def test_deviations_are_prose_that_belongs_to_no_cell(tmp_path):
    """Rewording one must not run every cell of the suite again."""
    suite = load(tmp_path, 'deviations=["The batch is halved."]')
    assert suite.deviations == ("The batch is halved.",)
    assert "deviations" not in CellConfig.model_fields
    resolved = {"encoder", "augmentation", "info_nce", "training", "probe", "dataset"}
    assert suite.describes(load(tmp_path).model_dump(mode="json", include=resolved))


def test_a_suite_of_speech_is_read_from_its_file(tmp_path):
    suite = load(tmp_path, suite=SPEECH)
    assert suite.encoder == ConvGRUSettings(kind="conv_gru", width=64, context=64)
    assert suite.augmentation == WindowSettings(kind="window")
    assert suite.info_nce.anchor_rows == 128


def test_a_shipped_suite_can_be_overridden():
    name = next(iter(shipped_suites()))
    assert load_suite(name, overrides=["training.epochs=3"]).training.epochs == 3


@given(value=st.one_of(st.integers(1, 2**31), st.integers(2**40, 2**62)))
@settings(max_examples=20)
def test_any_whole_number_survives_the_way_through_set(value, tmp_path_factory):
    suite = load(tmp_path_factory.mktemp("suite"), f"training.epochs={value}")
    assert suite.training.epochs == value


# -- suites upon suites --------------------------------------------------------------------------

UPON = {"name": "upon", "summary": "a suite upon another"}


def upon(folder, *, name="upon", extends="mine.toml", **tables):
    """The path of a suite file that extends another, which is SUITE in "mine.toml"."""
    write(folder)
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps({"extends": extends} | UPON | {"name": name} | tables))
    return str(path)


def refused(path: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_suite(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    return message


def test_a_suite_that_extends_another_differs_in_what_it_says_alone(tmp_path):
    path = upon(tmp_path, training={"epochs": 9}, methods=["cpc"], method={"cpc": {"x": 1}})
    below, found = load(tmp_path).model_dump(), load_suite(path).model_dump()
    assert {name for name in below if below[name] != found[name]} == {
        "name", "summary", "methods", "training", "method",
    }  # fmt: skip
    assert found["training"] == below["training"] | {"epochs": 9}
    assert (found["name"], found["methods"]) == ("upon", ("cpc",))


def test_a_chain_of_suites_is_laid_over_each_other_from_below(tmp_path):
    upon(tmp_path, name="first", training={"epochs": 9, "batch_size": 7}, seeds=2)
    path = upon(tmp_path, name="second", extends="first.toml", training={"epochs": 11})
    found = load_suite(path, overrides=["seeds=3"])
    assert (found.training.epochs, found.training.batch_size, found.seeds) == (11, 7, 3)


def test_what_a_suite_extends_is_looked_for_beside_it_or_among_the_shipped(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path)
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = upon(tmp_path / "folder", extends="../mine.toml")
    assert load_suite(path).dataset == load(tmp_path).dataset
    shipped = load_suite(upon(tmp_path, extends="memory"))
    assert shipped.method == load_suite("memory").method


def test_published_numbers_are_no_matter_of_a_suite_upon_theirs_unless_it_says_so(tmp_path):
    assert load_suite(upon(tmp_path, extends="memory")).published == ()
    claimed = upon(tmp_path, name="claimed", extends="memory", published=["loewe2019/table2"])
    assert load_suite(claimed).published == ("loewe2019/table2",)
    assert load_suite(upon(tmp_path, extends="claimed.toml")).published == ()


@pytest.mark.parametrize("left_out", ["name", "summary"])
def test_a_suite_upon_another_has_a_name_and_a_summary_of_its_own(left_out, tmp_path):
    write(tmp_path)
    own = {key: value for key, value in UPON.items() if key != left_out}
    path = tmp_path / "upon.toml"
    path.write_text(tomli_w.dumps({"extends": "mine.toml"} | own))
    message = refused(str(path))
    assert message == f"upon.toml extends mine.toml: it needs a {left_out} of its own"


def test_two_suites_of_a_chain_do_not_share_a_name(tmp_path):
    """Their records would lie in one folder."""
    upon(tmp_path, name="between")
    path = tmp_path / "top.toml"
    own = {"extends": "between.toml", "name": SUITE["name"], "summary": "the third"}
    path.write_text(tomli_w.dumps(own))
    assert refused(str(path)).startswith("mine.toml is extended under its own name 'mine'")


def test_a_circle_of_suites_is_named(tmp_path):
    upon(tmp_path, name="b", extends="a.toml")
    assert "(a.toml over b.toml over a.toml)" in refused(upon(tmp_path, name="a", extends="b.toml"))
    roundabout = f"../{tmp_path.name}/c.toml"
    assert "(c.toml over c.toml)" in refused(upon(tmp_path, name="c", extends=roundabout))


def test_what_a_suite_cannot_extend_is_named(tmp_path):
    missing = refused(upon(tmp_path, extends="nowhere.toml"))
    assert missing.startswith("no suite file 'nowhere.toml' (upon.toml: extends)")
    unknown = refused(upon(tmp_path, extends="memry"))
    assert unknown.startswith("no suite 'memry' (upon.toml: extends). Did you mean 'memory'?")
    assert refused(upon(tmp_path, extends=["memory"])).startswith("upon.toml: extends = ['memory']")


def test_a_mistake_in_a_chain_is_blamed_on_all_of_its_files(tmp_path):
    assert refused(upon(tmp_path, training={"epochs": -1})).startswith(
        "upon.toml over mine.toml: training.epochs = -1"
    )


def test_memory_128_is_the_memory_suite_with_as_many_steps_of_more_images():
    below, found = (load_suite(name).model_dump() for name in ("memory", "memory-128"))
    assert found["training"] == below["training"] | {"batch_size": 128}
    steps = [s["dataset"]["images"] / s["training"]["batch_size"] for s in (below, found)]
    assert steps == [4, 4]
    shared = set(below) - {"name", "summary", "protocol", "published", "dataset", "training"}
    assert all(found[name] == below[name] for name in shared)


# -- what cannot ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        # unknown keys: which, where, and the nearest known one
        ("sedes=3", ["no setting 'sedes'", "mine.toml", "Did you mean 'seeds'?", "Available: "]),
        (
            "training.epoch=3",
            ["no setting 'epoch'", "training.epoch", "Did you mean 'epochs'?", "learning_rate"],
        ),
        ("encoder.widht=3", ["no setting 'widht'", "Did you mean 'width'?"]),
        ("trainig.epochs=3", ["no setting 'trainig'", "Did you mean 'training'?"]),
        ("info_nce.k=3", ["no setting 'k'", "info_nce.k", "prediction_steps"]),
        # wrong types: what stands there
        ("training.epochs=ten", ["training.epochs = 'ten'", "integer"]),
        ("training.epochs=true", ["training.epochs = True", "integer"]),
        ("training.epochs=1.5", ["training.epochs = 1.5", "integer"]),
        ('training.epochs="10"', ["training.epochs = '10'", "integer"]),
        ("training.learning_rate=fast", ["training.learning_rate = 'fast'", "number"]),
        ("training.learning_rate=true", ["training.learning_rate = True", "number"]),
        ("augmentation.flip=1", ["augmentation.flip = 1", "boolean"]),
        ("augmentation.flip=yes", ["augmentation.flip = 'yes'", "boolean"]),
        ("encoder.blocks=3", ["encoder.blocks = 3", "array"]),
        ("encoder.blocks=[3, true]", ["encoder.blocks.1 = True", "integer"]),
        ("encoder=3", ["encoder = 3", "table"]),
        ("methods=gim", ["methods = 'gim'", "array"]),
        ("name=7", ["name = 7", "string"]),
        ("training.schedule=sideways", ["training.schedule = 'sideways'", "joint", "interleaved"]),
        ("method.cpc=3", ["method.cpc = 3"]),
        # values that mean nothing
        ("training.epochs=-1", ["training.epochs = -1"]),
        ("training.batch_size=0", ["training.batch_size = 0"]),
        ("training.learning_rate=0", ["training.learning_rate = 0"]),
        ("training.learning_rate=nan", ["training.learning_rate"]),
        ("training.learning_rate=inf", ["training.learning_rate"]),
        ("augmentation.mean=[nan]", ["augmentation.mean"]),
        ("augmentation.mean=[inf]", ["augmentation.mean"]),
        ("augmentation.std=[0]", ["augmentation.std.0 = 0"]),
        ("probe.validation_fraction=1", ["probe.validation_fraction = 1"]),
        ("probe.learning_rates=[]", ["probe.learning_rates"]),
        ("methods=[]", ["methods"]),
        ("encoder.blocks=[]", ["encoder.blocks"]),
        ("augmentation.crop=0", ["augmentation.crop = 0"]),
        ("augmentation.crop=wide", ["augmentation.crop = 'wide'", "integer"]),
        ("info_nce.anchor_rows=0", ["info_nce.anchor_rows = 0"]),
        ("probe.fitted_steps=0", ["probe.fitted_steps = 0"]),
        ("published=loewe2019/table1", ["published = 'loewe2019/table1'", "array"]),
        # kinds: unknown, none, and such as do not go together
        ("encoder.kind=resnt", ["encoder.kind = 'resnt'", "'resnet'", "'conv_gru'"]),
        ("augmentation.kind=windows", ["augmentation.kind = 'windows'", "'crop'", "'window'"]),
        ("encoder={width=8}", ["the setting 'encoder.kind' is missing: resnet or conv_gru"]),
        ("augmentation={crop=32}", ["'augmentation.kind' is missing: crop or window"]),
        ("encoder.kind=conv_gru", ["no setting 'blocks'", "encoder.blocks", "kernels", "strides"]),
        ("augmentation.kind=window", ["augmentation.mean = [0.4]", "number", "more)"]),
        (
            'encoder={kind="conv_gru"}',
            ["'conv_gru'", "'crop'", "resnet with crop", "conv_gru with window"],
        ),
        (
            'augmentation={kind="window"}',
            ["'resnet'", "'window'", "resnet with crop", "conv_gru with window"],
        ),
        ("seeds=0", ["seeds = 0"]),
        ("name=../escape", ["name = '../escape'"]),
        ("encoder.patch_overlap=8", ["encoder", "patch_overlap 8", "patch_size 8"]),
        ("augmentation.mean=[0.4, 0.4, 0.4]", ["augmentation", "1 number"]),
        ("augmentation.grayscale=false", ["augmentation", "3 number"]),
        # a grid too small to predict in
        ("augmentation.crop=28", ["28 pixels", "6 rows", "needs 7", "info_nce.prediction_steps"]),
        ("info_nce.prediction_steps=6", ["7 rows", "needs 8", "augmentation.crop"]),
        ("info_nce.skip_rows=2", ["7 rows", "needs 8"]),
        ("augmentation.crop=4", ["4 pixels"]),
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
        ("encoder.strides=[5, 4, 2, 2, 3]", ["encoder", "multiply to 240", "160", "10 ms"]),
        ("encoder.strides=[160]", ["encoder", "as many layers"]),
        ("encoder.kernels=[10, 8, 4, 4]", ["encoder", "as many layers"]),
        ("encoder.paddings=[]", ["encoder.paddings"]),
        ("encoder.paddings=[2, 2, 2, 2, -1]", ["encoder.paddings.4 = -1"]),
        ("encoder.strides=[5, 4, 2, 2, true]", ["encoder.strides.4 = True", "integer"]),
        ("encoder.strids=[5]", ["no setting 'strids'", "Did you mean 'strides'?"]),
        ("augmentation.samples=20000.0", ["augmentation.samples = 20000.0", "integer"]),
        ("augmentation.samples=20500", ["augmentation", "samples = 20500", "multiple of 160"]),
        ("augmentation.samples=0", ["augmentation.samples = 0"]),
        ("augmentation.std=0", ["augmentation.std = 0"]),
        ("augmentation.mean=[0.0]", ["augmentation.mean", "number"]),
        (
            "augmentation.samples=1920",
            ["1920 samples", "12 steps", "needs 13", "augmentation.samples", "prediction_steps"],
        ),
        ("info_nce.prediction_steps=128", ["128 steps", "needs 129"]),
        ("info_nce.skip_rows=116", ["128 steps", "116 skipped", "needs 129"]),
        ("encoder.kernels=[10, 8, 4, 4, 400]", ["gives 0 steps"]),
    ],
)
def test_a_bad_setting_of_speech_is_one_line_too(tmp_path, override, said):
    message = complaint(tmp_path, override, suite=SPEECH)
    for part in said:
        assert part in message


def test_a_window_of_as_many_steps_as_the_prediction_needs_is_long_enough(tmp_path):
    suite = load(tmp_path, "augmentation.samples=2080", suite=SPEECH)
    assert min(grid_rows(suite.encoder, suite.augmentation)) == 13


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
        "training",
        "dataset.name",
        "training.epochs",
        "probe.steps",
        "augmentation.crop",
        "augmentation.mean",
    ],
)
def test_a_missing_setting_is_named(tmp_path, missing):
    table = json.loads(json.dumps(SUITE))
    *parents, leaf = missing.split(".")
    holder = table[parents[0]] if parents else table
    del holder[leaf]
    with pytest.raises(ConfigError) as caught:
        load_suite(write(tmp_path, tomli_w.dumps(table)))
    assert str(caught.value) == f"mine.toml: the setting {missing!r} is missing"


def test_further_mistakes_are_counted(tmp_path):
    message = complaint(tmp_path, "training.epochs=-1", "training.batch_size=0", "seeds=0")
    assert message.endswith("(and 2 more)")


def test_a_mistake_made_with_set_is_not_blamed_on_the_file_alone(tmp_path):
    assert "mine.toml with --set" in complaint(tmp_path, "training.epochs=-1")


def test_an_unknown_suite_is_answered_with_the_shipped_ones():
    with pytest.raises(ConfigError) as caught:
        load_suite("quikstart")
    message = str(caught.value)
    assert message.startswith("no suite 'quikstart' (--suite). Did you mean 'quickstart'?")
    assert all(name in message for name in shipped_suites())


@pytest.mark.parametrize("name", ["nowhere.toml", "folder/nowhere.toml", "./nowhere"])
def test_a_suite_file_that_is_not_there_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_suite(name)
    assert str(caught.value).startswith(f"no suite file {name!r}")


@pytest.mark.parametrize(
    "text", ["name = ", "[training\nepochs = 1", "epochs = 1\nepochs = 2", "a = 'never closed"]
)
def test_broken_toml_is_one_line_that_names_file_and_place(text, tmp_path):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_suite(path)
    message = str(caught.value)
    assert path in message
    assert "line" in message or "end of document" in message
    assert len(message.splitlines()) == 1


def test_a_file_that_is_no_text_is_refused_in_one_line(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"cannot read the suite .*mine\.toml"):
        load_suite(str(path))


def test_a_folder_is_no_suite_file(tmp_path):
    with pytest.raises(ConfigError, match="no suite file"):
        load_suite(f"{tmp_path}/")


# -- the key -------------------------------------------------------------------------------------

CELL: dict[str, Any] = {
    "method": {
        "name": "cpc",
        "objective": "info_nce",
        "gradient_flow": "end_to_end",
        "trains_on": "unlabelled",
        "uses_labels": False,
        "like": "cpc",
        "schedule": "interleaved",
        "recompute": "nothing",
        "options": {"autoregressor": "pixelcnn", "autoregressor_layers": 4},
    },
    **{name: SUITE[name] for name in ("dataset", "encoder", "augmentation", "training", "probe")},
    "info_nce": {},
    "capacity": {"up_to": 64},
    "device": "cpu",
}
SPEECH_CELL = CELL | {name: SPEECH[name] for name in SPEECH if name in CELL} | {"capacity": None}
OTHER = {  # another valid value for each setting that is a choice
    "gradient_flow": "isolated",
    "trains_on": "train",
    "schedule": "joint",
    "recompute": "layers",
    "precision": "bf16",
    "budget": "steps",
    "device": "cuda",
    "anchor_rows": 64,
    "kept_outputs": {"views": 2},
    "fitted_steps": 500,
    "capacity": {"up_to": 8},
}


def cell(table: dict[str, Any] | None = None) -> CellConfig:
    return parse(CellConfig, CELL if table is None else table, origin="test")


def key(built: CellConfig) -> str:
    return built.key(data_sha256="0" * 64, seed=0)


def leaves(table: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    if isinstance(table, dict):
        for name, value in table.items():
            yield from leaves(value, *path, name)
    elif isinstance(table, list):
        for index, value in enumerate(table):
            yield from leaves(value, *path, index)
    else:
        yield path


def changed(table: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    """A copy with another valid value at `path`."""
    copy = json.loads(json.dumps(table))
    holder = copy
    for part in path[:-1]:
        holder = holder[part]
    value = holder[path[-1]]
    if isinstance(value, bool):
        holder[path[-1]] = not value
    elif value is None or isinstance(value, str):
        holder[path[-1]] = OTHER.get(path[-1], f"{value}x")
    else:
        holder[path[-1]] = value + 1 if isinstance(value, int) else value * 1.5
    match path:
        case ("augmentation", "grayscale"):
            copy["augmentation"] |= {"mean": [0.4] * 3, "std": [0.25] * 3}
        case ("training", "held_out"):
            copy["training"]["held_out"] = 0.1
        case ("augmentation", "samples"):
            copy["augmentation"]["samples"] = value + 160
        case ("encoder", "strides", index):  # 5, 4, 2, 2, 2: twice the one, half of another
            other = index + 1 if index < 4 else 3
            holder[index], holder[other] = value * 2, holder[other] // 2
    return copy


def other_settings(table: dict[str, Any]) -> Iterator[Any]:
    """All paths to a setting that may be changed alone: kinds bring their own settings."""
    return (
        pytest.param(table, path, id=".".join(map(str, path)))
        for path in leaves(cell(table).as_dict())
        if path[-1] != "kind"
    )


def shuffled(table: Any, draw: random.Random) -> Any:
    if not isinstance(table, dict):
        return table
    names = draw.sample(sorted(table), len(table))
    return {name: shuffled(table[name], draw) for name in names}


def test_the_resolved_configuration_is_fully_explicit():
    """Defaults are spelled out, so a later change of one does not rewrite old records."""
    spelled_out = cell().as_dict()
    assert spelled_out["info_nce"] == {
        "prediction_steps": 5,
        "skip_rows": 1,
        "negatives": 16,
        "anchor_rows": None,
    }
    assert key(cell(spelled_out)) == key(cell())


@pytest.mark.parametrize(("table", "path"), [*other_settings(CELL), *other_settings(SPEECH_CELL)])
def test_the_key_changes_with_every_setting(table, path):
    assert key(cell(changed(cell(table).as_dict(), path))) != key(cell(table))


@pytest.mark.parametrize("kinds", [("encoder",), ("augmentation",), ("encoder", "augmentation")])
def test_the_key_changes_with_the_kind_of_encoder_and_augmentation(kinds):
    assert key(cell(CELL | {kind: SPEECH[kind] for kind in kinds})) != key(cell())


def test_the_key_changes_with_data_seed_and_results_version(monkeypatch):
    built = cell()
    keys = {
        built.key(data_sha256="0" * 64, seed=0),
        built.key(data_sha256="1" * 64, seed=0),
        built.key(data_sha256="0" * 64, seed=1),
    }
    monkeypatch.setattr(config, "RESULTS_VERSION", config.RESULTS_VERSION + 1)
    keys.add(built.key(data_sha256="0" * 64, seed=0))
    assert len(keys) == 4


@given(seed=st.integers(0, 2**30))
@settings(max_examples=10)
def test_the_key_does_not_depend_on_the_order_in_which_settings_are_written(seed):
    assert key(cell(shuffled(CELL, random.Random(seed)))) == key(cell())


def test_the_key_does_not_depend_on_how_a_number_is_written():
    whole, point = ({**CELL["training"], "learning_rate": rate} for rate in (1, 1.0))
    assert key(cell(CELL | {"training": whole})) == key(cell(CELL | {"training": point}))


def test_the_key_is_the_same_in_another_process():
    """Python salts its hashes per process; keys must not notice."""
    program = (
        "import json, sys; from gim_bench.settings import schema as config\n"
        "cell = parse(CellConfig, json.load(sys.stdin), origin='test')\n"
        "print(cell.key(data_sha256='0' * 64, seed=0))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(CELL),
            env=os.environ | {"PYTHONHASHSEED": salt, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for salt in ("1", "2")
    }
    assert found == {key(cell())}


def test_a_changed_suite_is_not_set_beside_published_numbers():
    """It is another experiment than the paper's."""
    assert load_suite("stl10").published
    assert load_suite("stl10", overrides=["training.epochs=3"]).published == ()
