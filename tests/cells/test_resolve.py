"""The configuration of every row of a suite, and whether a record has one of them."""

import json
from typing import Any

import pytest

from gim_bench import registry
from gim_bench.cells import resolve
from gim_bench.cells.resolve import cells, configs, dataset_of, describer, describes
from gim_bench.contract import Modality
from gim_bench.encoders.conv_gru import ConvGRUEncoder, ConvGRUSettings
from gim_bench.encoders.resnet import ResNetEncoder
from gim_bench.errors import ConfigError
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.records.protocols import READ, READ_UNDER
from gim_bench.seeding import derive
from gim_bench.settings.augmentations import BlurSettings, JitterSettings
from gim_bench.settings.keys import keyed
from gim_bench.settings.optimisers import AdamSettings, SGDSettings
from gim_bench.settings.protocols import protocols_of
from gim_bench.settings.protocols import resolved as of_protocol
from gim_bench.settings.schema import Precision, Recompute, Schedule
from gim_bench.settings.suites import load_suite, shipped_suites
from tests.settings.tables import SPEECH, load
from tests.tiny_suite import CPU, SPEECH_TOML, TOML, tiny_cell, tiny_suite

KEPT = "training.kept_outputs={}"


def methods_for(modality):
    return [
        name for name in registry.methods() if modality in registry.method(name).traits.modalities
    ]


def resolved(suite, *methods):
    return configs(suite, methods=methods, device=CPU)


def one_line(error):
    """The message of what pytest.raises caught."""
    message = str(error.value)
    assert "\n" not in message
    return message


def refused(suite, *methods):
    """What `configs` says about the suite: one line, or the test fails."""
    with pytest.raises(ConfigError) as error:
        resolved(suite, *methods)
    return one_line(error)


# -- configurations -------------------------------------------------------------------------------


def test_without_a_choice_all_methods_of_the_suite_are_configured_in_its_order(suite):
    assert list(resolved(suite)) == ["gim", "random_init"]


def test_a_method_that_the_suite_does_not_list_can_be_asked_for(suite):
    assert list(resolved(suite, "supervised")) == ["supervised"]


def test_methods_share_everything_but_what_they_declare(suite):
    gim, cpc = resolved(suite, "gim", "cpc").values()
    shared = [name for name in type(gim).model_fields if name != "method"]
    assert all(getattr(gim, name) == getattr(cpc, name) for name in shared)
    assert (gim.method.gradient_flow, cpc.method.gradient_flow) == ("isolated", "end_to_end")


def test_defaults_are_spelled_out(suite):
    cpc = resolved(suite, "cpc")["cpc"]
    assert cpc.method.options.entries() == {"autoregressor": "auto", "autoregressor_layers": 4}
    assert cpc.dataset.options.stripes == 4
    assert cpc.training.schedule == "interleaved"
    assert cpc.device == "cpu"


def test_what_a_suite_leaves_out_of_the_tables_of_plug_ins_is_the_paper_s_setting(tmp_path):
    suite = load(tmp_path, 'encoder={kind="resnet"}', "augmentation.crop=64")
    found = resolved(suite)["gim"]
    assert found.info_nce == InfoNCESettings(
        prediction_steps=5, skip_rows=1, negatives=16, anchor_rows=None
    )
    assert (found.encoder.width, found.encoder.blocks) == (64, (3, 4, 6))
    shape = found.augmentation.shape
    assert ResNetEncoder.rows(found.encoder, shape=shape) == [7, 7, 7]


def test_what_a_suite_of_speech_leaves_out_is_the_paper_s_setting_too(tmp_path):
    """Table 5 of the paper, but for the fifth kernel, which only gives 128 steps if it is 4."""
    suite = load(tmp_path, 'encoder={kind="conv_gru"}', suite=SPEECH)
    found = resolved(suite)["gim"]
    assert found.encoder == ConvGRUSettings(
        kind="conv_gru",
        width=512,
        context=256,
        kernels=(10, 8, 4, 4, 4),
        strides=(5, 4, 2, 2, 2),
        paddings=(2, 2, 2, 2, 1),
    )
    rows = ConvGRUEncoder.rows(found.encoder, shape=found.augmentation.shape)
    assert rows == [4095, 1023, 512, 257, 128, 128]


def test_options_of_a_methods_table_reach_that_method_alone(tmp_path):
    suite = tiny_suite(tmp_path, "method.cpc.autoregressor=none")
    found = resolved(suite, "gim", "cpc")
    assert found["cpc"].method.options.autoregressor == "none"
    assert found["gim"].method.options.entries() == {}


def test_precision_auto_is_decided(tmp_path):
    suite = tiny_suite(tmp_path, "training.precision=auto")
    assert resolved(suite)["gim"].training.precision in (Precision.FP32, Precision.BF16)


def test_the_suite_of_memory_looks_for_the_largest_batch_of_every_row():
    found = configs(load_suite("memory"), methods=[], device=CPU)
    assert {config.capacity.up_to for config in found.values()} == {16384}


@pytest.mark.parametrize("name", shipped_suites())
def test_every_shipped_suite_names_data_and_methods_that_fit_together(name):
    suite = load_suite(name)
    assert list(configs(suite, methods=[], device=CPU)) == list(suite.methods)


# -- unknown names --------------------------------------------------------------------------------


def test_an_unknown_method_on_the_command_line_is_answered_with_the_nearest(suite):
    with pytest.raises(ConfigError) as error:
        resolved(suite, "gmi")
    assert one_line(error).startswith("no method 'gmi' (--method). Did you mean 'gim'? Available:")


def test_an_unknown_method_in_the_suite_is_located(tmp_path):
    with pytest.raises(ConfigError) as error:
        resolved(tiny_suite(tmp_path, 'methods=["gim", "random_int"]'))
    assert one_line(error).startswith(
        "no method 'random_int' (suite tiny, methods[1]). Did you mean 'random_init'?"
    )


def test_a_table_for_an_unknown_method_is_an_error(tmp_path):
    with pytest.raises(ConfigError) as error:
        resolved(tiny_suite(tmp_path, "method.gmi.layers=3"))
    assert one_line(error).startswith(
        "no method 'gmi' (suite tiny, [method.gmi]). Did you mean 'gim'?"
    )


def test_an_unknown_option_of_a_method_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as error:
        resolved(tiny_suite(tmp_path, "method.cpc.autoregresor=none"), "cpc")
    message = one_line(error)
    assert "(suite tiny: method.cpc.autoregresor)" in message
    assert "Did you mean 'autoregressor'?" in message
    assert "training" in message  # which a row may set, too


def test_an_option_of_the_wrong_type_is_an_error(tmp_path):
    message = refused(tiny_suite(tmp_path, "method.cpc.autoregressor_layers=many"), "cpc")
    assert message.startswith("suite tiny: method.cpc.autoregressor_layers = 'many': ")


def test_an_unknown_data_set_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as error:
        dataset_of(tiny_suite(tmp_path, "dataset.name=photo"))
    message = one_line(error)
    assert message.startswith(
        "no dataset 'photo' (suite tiny, dataset.name). Did you mean 'photos'"
    )


def test_an_unknown_option_of_the_data_set_is_an_error(tmp_path):
    with pytest.raises(ConfigError) as error:
        dataset_of(tiny_suite(tmp_path, "dataset.sise=3"))
    assert one_line(error).startswith(
        "no setting 'sise' (suite tiny: dataset.sise). Did you mean 'size'?"
    )


def test_an_unknown_encoder_is_answered_with_the_nearest(tmp_path):
    assert refused(load(tmp_path, "encoder.kind=resnt")) == (
        "no encoder 'resnt' (suite mine, encoder.kind). Did you mean 'resnet'? "
        f"Available: {', '.join(sorted(registry.encoders()))}"
    )


@pytest.mark.parametrize("name", ["cross_entrpy", "gim"])
def test_a_table_for_an_objective_that_no_row_has_is_an_error(name, tmp_path):
    suite = tiny_suite(tmp_path, f"objective.{name}.x=1", 'methods=["gim", "supervised"]')
    assert refused(suite).startswith(
        f"no objective {name!r} (suite tiny, [objective.{name}], of the suite's methods)."
    )
    assert refused(suite).endswith("Available: cross_entropy")


def test_settings_of_info_nce_in_the_wrong_table_are_sent_to_the_right_one(tmp_path):
    suite = tiny_suite(tmp_path, "objective.info_nce.negatives=4")
    assert refused(suite).endswith("InfoNCE's table is [info_nce]")


# -- settings of plug-ins -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("encoder.widht=3", ["no setting 'widht'", "encoder.widht", "Did you mean 'width'?"]),
        ("encoder.blocks=3", ["encoder.blocks = 3", "array"]),
        ("encoder.blocks=[3, true]", ["encoder.blocks.1 = True", "integer"]),
        ("encoder.blocks=[]", ["encoder.blocks"]),
        ("encoder.patch_overlap=8", ["encoder: patch_overlap 8", "patch_size 8"]),
        ("encoder.kind=conv_gru", ["no setting 'blocks'", "encoder.blocks", "kernels", "strides"]),
        ("info_nce.k=3", ["no setting 'k'", "info_nce.k", "prediction_steps"]),
        ("info_nce.anchor_rows=0", ["info_nce.anchor_rows = 0"]),
        ("dataset.size=7", ["dataset.size = 7", "greater than or equal to 8"]),
        ("method.gim.x=7", ["no setting 'x'", "method.gim.x"]),
        # kinds that do not go together
        (
            'encoder={kind="conv_gru"}',
            ["'conv_gru' takes speech", "'crop' gives images", "crop for images and window for"],
        ),
        (
            'augmentation={kind="window"}',
            ["'resnet' takes images", "'window' gives speech", "crop for images and window for"],
        ),
        # a grid too small to predict in
        (
            "augmentation.crop=28",
            ["28 pixels gives 6 rows in module_1", "needs 7", "enlarge augmentation.crop or lower"],
        ),
        ("info_nce.prediction_steps=6", ["7 rows", "predicting 6 steps", "needs 8"]),
        ("info_nce.skip_rows=2", ["7 rows", "past 2 skipped", "needs 8"]),
        ("augmentation.crop=4", ["4 pixels gives 0 rows"]),
    ],
)
def test_a_bad_setting_of_a_plug_in_is_one_line_that_says_what_and_where(tmp_path, override, said):
    message = refused(load(tmp_path, override))
    assert "suite mine" in message
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("encoder.strides=[5, 4, 2, 2, 3]", ["encoder: the strides", "240", "160", "10 ms"]),
        ("encoder.strides=[160]", ["encoder: kernels, strides and paddings"]),
        ("encoder.kernels=[10, 8, 4, 4]", ["encoder: kernels, strides and paddings"]),
        ("encoder.paddings=[]", ["encoder.paddings"]),
        ("encoder.paddings=[2, 2, 2, 2, -1]", ["encoder.paddings.4 = -1"]),
        ("encoder.strides=[5, 4, 2, 2, true]", ["encoder.strides.4 = True", "integer"]),
        ("encoder.strids=[5]", ["no setting 'strids'", "Did you mean 'strides'?"]),
        (
            "augmentation.samples=1920",
            ["window of 1920 samples gives 12 steps in module_5", "needs 13",
             "enlarge augmentation.samples or lower info_nce.prediction_steps"],
        ),
        ("info_nce.prediction_steps=128", ["128 steps", "needs 129"]),
        ("info_nce.skip_rows=116", ["128 steps", "116 skipped", "needs 129"]),
        ("encoder.kernels=[10, 8, 4, 4, 400]", ["gives 0 steps"]),
    ],
)  # fmt: skip
def test_a_bad_setting_of_a_plug_in_for_speech_is_one_line_too(tmp_path, override, said):
    message = refused(load(tmp_path, override, suite=SPEECH))
    assert "suite mine" in message
    for part in said:
        assert part in message


def test_a_window_of_as_many_steps_as_the_prediction_needs_is_long_enough(tmp_path):
    found = resolved(load(tmp_path, "augmentation.samples=2080", suite=SPEECH))["gim"]
    assert min(ConvGRUEncoder.rows(found.encoder, shape=found.augmentation.shape)) == 13


def test_rows_that_predict_nothing_need_no_grid_of_a_certain_size(tmp_path):
    suite = load(tmp_path, "augmentation.crop=12", 'methods=["supervised", "random_init"]')
    assert list(resolved(suite)) == ["supervised", "random_init"]


def test_the_row_that_a_grid_is_too_small_for_is_named(tmp_path):
    suite = load(tmp_path, "augmentation.crop=28", 'methods=["random_init", "gim"]')
    assert refused(suite).startswith("suite mine, [method.gim]: a crop of 28 pixels")


# -- images and speech ----------------------------------------------------------------------------


def test_every_method_is_for_images_or_speech_and_most_for_both():
    images, speech = set(methods_for(Modality.IMAGE)), set(methods_for(Modality.SPEECH))
    assert images | speech == set(registry.methods())
    assert {"gim", "cpc", "supervised", "greedy_supervised", "random_init"} <= images & speech


def test_every_method_for_speech_is_configured_in_a_suite_of_speech(speech_suite):
    found = resolved(speech_suite, *methods_for(Modality.SPEECH))
    assert found["gim"].encoder == ConvGRUSettings(kind="conv_gru", width=4, context=3)
    ablations = {name: config.method.ablation for name, config in found.items()}
    assert ablations["gim"] is None
    assert ablations["gim_no_ar"] == "no GRU"


@pytest.mark.parametrize("method", ["gim_no_ar", "gim_no_bptt", "mfcc"])
def test_a_method_made_for_speech_is_refused_on_images(method, suite):
    with pytest.raises(ConfigError) as error:
        resolved(suite, "gim", method)
    assert one_line(error) == (
        f"the method {method!r} (--method) is made for speech, and suite 'tiny' is one of images: "
        f"leave it out"
    )


def test_a_method_of_the_suite_that_is_made_for_something_else_is_located(tmp_path):
    suite = tiny_suite(tmp_path, 'methods=["gim", "gim_no_ar"]')
    with pytest.raises(ConfigError) as error:
        resolved(suite)
    assert "'gim_no_ar' (suite tiny, methods[1])" in one_line(error)


def test_speech_for_an_encoder_of_images_is_refused(tmp_path):
    suite = tiny_suite(tmp_path, 'dataset={name="espeak"}')
    with pytest.raises(ConfigError) as error:
        resolved(suite)
    assert one_line(error) == (
        "suite tiny: the data set 'espeak' holds speech, but an encoder of kind 'resnet' takes "
        "images: use another encoder.kind and augmentation.kind, or another dataset.name"
    )


def test_images_for_an_encoder_of_speech_are_refused(tmp_path):
    suite = tiny_suite(tmp_path, 'dataset={name="photos"}', toml=SPEECH_TOML)
    with pytest.raises(ConfigError) as error:
        resolved(suite)
    message = one_line(error)
    assert "the data set 'photos' holds images, but an encoder of kind 'conv_gru'" in message


def test_an_option_that_makes_no_sense_for_speech_is_found_before_anything_runs(tmp_path):
    suite = load_suite("quickstart-audio", overrides=["method.cpc.autoregressor=none"])
    with pytest.raises(ConfigError, match="which is for images"):
        configs(suite, methods=["cpc"], device=CPU)


# -- rows that are variants -----------------------------------------------------------------------


def variant(tmp_path, *lines):
    """`wanted` is the last method of the tiny suite, as these lines say."""
    toml = TOML.replace('"random_init"]', '"wanted"]')
    return tiny_suite(tmp_path, toml="\n".join([toml, "[method.wanted]", *lines, ""]))


def test_a_variant_is_another_method_under_a_name_of_its_own(tmp_path):
    suite = variant(tmp_path, 'like = "gim"', 'schedule = "joint"', 'recompute = "layers"')
    found = configs(suite, methods=[], device=CPU)["wanted"].method
    assert (found.name, found.like, found.objective) == ("wanted", "gim", "info_nce")
    assert (found.schedule, found.recompute) == (Schedule.JOINT, Recompute.LAYERS)


def test_a_variant_keeps_the_method_s_own_options(tmp_path):
    suite = variant(tmp_path, 'like = "cpc"', "autoregressor_layers = 2", 'recompute = "pieces"')
    found = configs(suite, methods=[], device=CPU)["wanted"].method
    assert found.options.entries() == {"autoregressor": "auto", "autoregressor_layers": 2}


def test_without_a_word_a_row_is_trained_as_the_suite_says(suite):
    found = resolved(suite, "gim")["gim"].method
    assert (found.like, found.schedule) == ("gim", suite.training.schedule)
    assert (found.recompute, found.only) == (suite.training.recompute, None)


def test_gim_iterative_is_trained_in_sequence_whatever_the_suite_says(suite):
    assert resolved(suite, "gim_iterative")["gim_iterative"].method.schedule == "sequential"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('like = "gmi"', ["no method 'gmi'", "[method.wanted], like", "Did you mean 'gim'?"]),
        ('schedule = "sideways"', ["method.wanted.schedule = 'sideways'"]),
        ("only = 2", ["only = 2"]),
    ],
)
def test_a_faulty_variant_is_one_line(line, words, tmp_path):
    lines = [line] if line.startswith("like") else ['like = "gim"', line]
    with pytest.raises(ConfigError) as caught:
        configs(variant(tmp_path, *lines), methods=[], device=CPU)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("schedule", ["joint", "interleaved", "pipeline"])
def test_kept_outputs_are_refused_where_modules_are_trained_together(schedule, tmp_path):
    suite = tiny_suite(tmp_path, KEPT, f"training.schedule={schedule}")
    message = refused(suite, "gim")
    assert message.startswith("suite tiny, [method.gim]: training.kept_outputs is for modules")
    assert f"the schedule of 'gim' is '{schedule}'" in message


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("gim", ["training.schedule=sequential"]),
        ("gim", ["method.gim.only=module_1"]),
        ("gim_iterative", []),
        ("cpc", []),
        ("random_init", []),
    ],
)
def test_kept_outputs_go_with_all_other_rows(method, overrides, tmp_path):
    assert resolved(tiny_suite(tmp_path, KEPT, *overrides), method)


# -- rows with tables of their own ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "section", "setting", "value"),
    [
        ("training.epochs=7", "training", "epochs", 7),
        ("training.optimiser.kind=sgd", "training", "optimiser", SGDSettings()),
        ("training.optimiser.weight_decay=0.1", "training", "optimiser",
         AdamSettings(weight_decay=0.1)),
        ("augmentation.flip=false", "augmentation", "flip", False),
        ("encoder.width=6", "encoder", "width", 6),
        ("probe.steps=9", "probe", "steps", 9),
        ("objective.negatives=9", "info_nce", "negatives", 9),
    ],
)  # fmt: skip
def test_a_row_s_table_is_laid_over_the_suite_s_for_that_row_alone(
    override, section, setting, value, tmp_path
):
    suite = tiny_suite(tmp_path, f"method.gim.{override}")
    bare, found = resolved(tiny_suite(tmp_path), "gim", "cpc"), resolved(suite, "gim", "cpc")
    assert getattr(getattr(found["gim"], section), setting) == value
    assert found["cpc"] == bare["cpc"]
    assert found["gim"] != bare["gim"]
    changed = getattr(bare["gim"], section).model_copy(update={setting: value})
    assert found["gim"] == bare["gim"].model_copy(update={section: changed})


def test_a_row_may_have_an_encoder_and_an_augmentation_of_another_kind(speech_suite, tmp_path):
    """Here the row's whole tables replace the suite's, whose settings are of another kind."""
    suite = tiny_suite(
        tmp_path,
        'dataset={name="noise"}',
        'method.gim.encoder={kind="conv_gru", width=4, context=3}',
        'method.gim.augmentation={kind="window", samples=3200, mean=0.0, std=0.1}',
    )
    assert resolved(suite, "gim")["gim"].encoder == resolved(speech_suite)["gim"].encoder
    assert refused(suite, "random_init").startswith("suite tiny: the data set 'noise' holds speech")


def test_a_row_s_change_of_view_1_reaches_the_further_views_as_in_the_suite(tmp_path):
    """Further views differ from view 1 only where their tables say so."""
    colour = ("augmentation.grayscale=false", "augmentation.mean=[0.4,0.4,0.4]",
              "augmentation.std=[0.2,0.2,0.2]")  # fmt: skip
    views = ("augmentation.jitter={hue=0.2}", "augmentation.blur={kernel=5}",
             "augmentation.further_views=[{blur={probability=0.1}}]")  # fmt: skip
    change = ("augmentation.jitter.hue=0.3", "augmentation.blur.kernel=7")
    of_row = tiny_suite(tmp_path, *colour, *views, *(f"method.gim.{each}" for each in change))
    found = resolved(of_row)["gim"].augmentation
    assert found == resolved(tiny_suite(tmp_path, *colour, *views, *change))["gim"].augmentation
    assert found.view(2).jitter == JitterSettings(hue=0.3)
    assert found.view(2).blur == BlurSettings(kernel=7, probability=0.1)


def test_a_row_may_be_probed_where_the_suite_is_not(tmp_path):
    probe = "method.gim.probe={learning_rates=[0.1], steps=2, batch_size=8}"
    found = resolved(tiny_suite(tmp_path, probe, toml=TOML[: TOML.index("[probe]")]))
    assert found["gim"].probe.steps == 2
    assert found["random_init"].probe is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epoch=3", ["no setting 'epoch'", "training.epoch", "Did you mean 'epochs'?"]),
        ("training.epochs=many", ["training.epochs = 'many'", "integer"]),
        ("training=3", ["training = 3", "table"]),
        ("encoder.widht=3", ["no setting 'widht'", "encoder.widht", "Did you mean 'width'?"]),
        ("encoder.kind=resnt", ["no encoder 'resnt'", "encoder.kind", "Did you mean 'resnet'?"]),
        ('encoder={kind="conv_gru"}', ["'conv_gru' takes speech", "'crop' gives images"]),
        ("augmentation.corp=3", ["no setting 'corp'", "augmentation.corp"]),
        ("probe.steps=0", ["probe.steps = 0"]),
        ("objective.negatives=0", ["info_nce.negatives = 0"]),
        ("objective.prediction_steps=9", ["gives 5 rows", "needs 11"]),
    ],
)
def test_a_mistake_in_a_row_s_table_is_one_line_that_names_the_row(override, said, tmp_path):
    message = refused(tiny_suite(tmp_path, f"method.gim.{override}"))
    assert "method.gim" in message
    for part in said:
        assert part in message


def test_settings_of_an_objective_are_refused_where_a_row_has_none(tmp_path):
    suite = tiny_suite(tmp_path, "method.random_init.objective.negatives=4")
    assert refused(suite) == (
        "suite tiny, [method.random_init]: the method 'random_init' has no objective: leave out "
        "the table `objective`"
    )


# -- gradient flow --------------------------------------------------------------------------------


def test_the_end_to_end_twin_of_a_local_method_is_two_lines(tmp_path):
    suite = variant(tmp_path, 'like = "gim"', 'gradient_flow = "end_to_end"')
    gim, twin = resolved(suite).values()
    assert (gim.method.gradient_flow, twin.method.gradient_flow) == ("isolated", "end_to_end")
    named = {"name": "wanted", "like": "gim", "gradient_flow": "end_to_end"}
    assert twin == gim.model_copy(update={"method": gim.method.model_copy(update=named)})


@pytest.mark.parametrize("flow", ["isolated", "end_to_end"])
def test_a_method_by_definition_of_one_flow_is_refused_with_another(flow, tmp_path):
    suite = variant(tmp_path, 'like = "random_init"', f'gradient_flow = "{flow}"')
    assert refused(suite) == (
        f"suite tiny, [method.wanted]: the gradient flow of 'random_init' is none by definition: "
        f"leave out gradient_flow = {flow!r}"
    )


def test_a_method_may_be_told_the_flow_that_it_has(tmp_path):
    suite = variant(tmp_path, 'like = "gim"', 'gradient_flow = "isolated"')
    assert resolved(suite)["wanted"].method.gradient_flow == "isolated"


def test_an_unknown_gradient_flow_is_one_line(tmp_path):
    message = refused(variant(tmp_path, 'like = "gim"', 'gradient_flow = "sideways"'))
    assert "method.wanted.gradient_flow = 'sideways'" in message


# -- examples that depend on each other -----------------------------------------------------------


@pytest.fixture
def normed(monkeypatch):
    """An encoder is registered whose examples depend on each other, as with batch norm."""
    table = {**registry.encoders(), "normed": "tests.cells.tiny_cells:Normed"}
    monkeypatch.setattr(registry, "encoders", lambda: table)


NORMED = 'encoder={kind="normed", width=2, blocks=[1, 1], patch_size=8, patch_overlap=4}'


@pytest.mark.usefixtures("normed")
@pytest.mark.parametrize("place", ["training", "method.gim"])
def test_a_batch_of_dependent_examples_is_not_encoded_in_pieces(place, tmp_path):
    suite = tiny_suite(tmp_path, NORMED, f"{place}.recompute=pieces")
    assert refused(suite) == (
        'suite tiny, [method.gim]: recompute = "pieces" encodes a part of the batch at a time, and '
        "in the encoder 'normed' examples depend on each other (as with batch norm): use "
        '"layers" or "nothing"'
    )


@pytest.mark.usefixtures("normed")
@pytest.mark.parametrize("recompute", ["layers", "nothing"])
def test_a_batch_of_dependent_examples_may_be_computed_again_as_a_whole(recompute, tmp_path):
    suite = tiny_suite(tmp_path, NORMED, f"training.recompute={recompute}")
    assert resolved(suite)["gim"].method.recompute == recompute


def test_a_batch_of_independent_examples_may_be_encoded_in_pieces(tmp_path):
    suite = tiny_suite(tmp_path, "training.recompute=pieces")
    assert resolved(suite)["gim"].method.recompute is Recompute.PIECES


# -- records of a suite ---------------------------------------------------------------------------


def before(config) -> dict[str, Any]:
    """The configuration of a record as it was before the settings that were added later."""
    table = keyed(config)
    assert "optimiser" not in table["training"]
    return table


@pytest.mark.parametrize("recorded", [before, lambda config: config.as_dict()], ids=["old", "new"])
def test_a_suite_describes_the_configurations_it_resolves_to(recorded, tmp_path):
    overrides = ("training.precision=auto", "method.cpc.autoregressor=none")
    suite = tiny_suite(tmp_path, *overrides)
    for config in resolved(suite, "gim", "cpc").values():
        assert describes(suite, recorded(config))
        for other in ("training.epochs=9", "capacity.up_to=9", "info_nce.negatives=9"):
            assert not describes(tiny_suite(tmp_path, *overrides, other), recorded(config))


@pytest.mark.parametrize("recorded", [before, lambda config: config.as_dict()], ids=["old", "new"])
@pytest.mark.parametrize(
    "later",
    [
        "training.optimiser.kind=sgd",
        'training.optimiser={kind="adam", weight_decay=0.1}',
        "training.rate_schedule.kind=cosine",
        "augmentation.blur.kernel=5",
        "augmentation.further_views=[{}]",
    ],
)
def test_a_record_without_a_later_setting_has_its_default(later, recorded, tmp_path):
    suite, other = tiny_suite(tmp_path), tiny_suite(tmp_path, later)
    assert not describes(other, recorded(resolved(suite)["gim"]))
    assert not describes(suite, resolved(other)["gim"].as_dict())
    assert describes(other, resolved(other)["gim"].as_dict())


def test_the_device_of_a_record_and_a_precision_that_is_left_open_may_be_any(tmp_path):
    suite = tiny_suite(tmp_path, "training.precision=auto")
    config = resolved(suite)["gim"].as_dict()
    for precision in ("fp32", "bf16"):
        elsewhere = {"device": "cuda", "training": config["training"] | {"precision": precision}}
        assert describes(suite, config | elsewhere)
    said = tiny_suite(tmp_path, "training.precision=fp32")
    assert not describes(said, config | {"training": config["training"] | {"precision": "bf16"}})


def test_a_precision_that_a_row_leaves_open_may_be_any(tmp_path):
    suite = tiny_suite(tmp_path, "method.gim.training.precision=auto")
    found = {}
    for name in ("gim", "random_init"):
        config = resolved(suite, name)[name].as_dict()
        for precision in ("fp32", "bf16"):
            recorded = config | {"training": config["training"] | {"precision": precision}}
            found[name, precision] = describes(suite, recorded)
    assert not found.pop(("random_init", "bf16"))
    assert all(found.values())


def test_a_setting_s_former_name_in_a_record_is_that_setting(tmp_path):
    def kept(epochs):
        kept = f"training.kept_outputs.epochs={epochs}"
        return tiny_suite(tmp_path, kept, "training.schedule=sequential")

    config = before(resolved(kept(2))["gim"])
    assert config["training"]["kept_outputs"]["views"] == 2
    assert describes(kept(2), config)
    assert not describes(kept(3), config)


def test_the_unit_of_a_loss_is_a_fact_that_no_record_needs(tmp_path):
    config = resolved(tiny_suite(tmp_path))["random_init"].as_dict()
    assert config["method"]["loss_unit"] is None
    assert describes(tiny_suite(tmp_path), config | {"method": before_of(config["method"])})


def before_of(method: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in method.items() if name not in ("loss_unit", "views")}


@pytest.mark.parametrize(
    "override",
    [
        "method.cpc.autoregressor=none",
        "method.cpc.schedule=joint",
        "method.cpc.recompute=layers",
        "method.cpc.only=module_1",
        "method.cpc.like=gim",
        "method.cpc.training.epochs=9",
        "method.cpc.encoder.width=3",
        "method.cpc.objective.negatives=9",
        "dataset.size=40",
    ],
)
def test_what_a_suite_leaves_to_its_methods_and_data_set_is_part_of_it(override, tmp_path):
    """Its file names none of these, so a record that has another value is not of this suite."""
    size = TOML.replace("size = 26\n", "")  # the data set's own
    suite = tiny_suite(tmp_path, toml=size)
    other = resolved(tiny_suite(tmp_path, override, toml=size), "cpc")["cpc"].as_dict()
    assert describes(suite, resolved(suite, "cpc")["cpc"].as_dict())
    assert not describes(suite, other)
    assert describes(tiny_suite(tmp_path, override, toml=size), other)


# A row of a method that is not installed, which trains longer and with an objective of its own.
THEIRS = (
    "method.theirs.strength=2",
    "method.theirs.only=module_2",
    "method.theirs.gradient_flow=end_to_end",
    "method.theirs.training.epochs=5",
    "method.theirs.encoder.width=3",
    "method.theirs.objective.margin=0.5",
    "objective.hinge.scale=4",
)


@pytest.fixture
def of_theirs(tmp_path) -> dict[str, Any]:
    """What their row left in its record."""
    config = resolved(tiny_suite(tmp_path), "gim")["gim"].as_dict()
    config["method"] |= {
        "name": "theirs",
        "like": "theirs",
        "objective": "hinge",
        "gradient_flow": "end_to_end",
        "only": "module_2",
        "options": {"strength": 2, "depth": 7},
    }
    config["training"] |= {"epochs": 5}
    config["encoder"] |= {"width": 3}
    return config | {"objective": {"margin": 0.5, "scale": 4, "power": 2}}


def test_a_row_of_a_method_that_is_not_installed_is_taken_at_its_word(of_theirs, tmp_path):
    """What the suite's file says of the row is compared, and no default of their settings."""
    assert describes(tiny_suite(tmp_path, *THEIRS), of_theirs)


def test_further_views_of_a_method_that_is_not_installed_are_compared(of_theirs, tmp_path):
    """The record spells out every setting of every view."""
    views = "augmentation.further_views=[{blur={kernel=5}}]"
    of_theirs["augmentation"] = resolved(tiny_suite(tmp_path, views))["gim"].as_dict()[
        "augmentation"
    ]
    assert describes(tiny_suite(tmp_path, *THEIRS, views), of_theirs)
    other = views.replace("5", "7")
    assert not describes(tiny_suite(tmp_path, *THEIRS, other), of_theirs)


@pytest.mark.parametrize(
    "other",
    [
        "method.theirs.strength=3",
        "method.theirs.only=module_1",
        "method.theirs.gradient_flow=isolated",
        "method.theirs.training.epochs=6",
        "method.theirs.encoder.width=4",
        "method.theirs.objective.margin=0.1",
        "objective.hinge.scale=5",
        "training.batch_size=10",
        "info_nce.negatives=5",
        "dataset.size=40",
        "probe.steps=5",
        "augmentation.flip=false",
        "capacity.up_to=9",
    ],
)
def test_a_row_of_a_method_that_is_not_installed_has_what_the_file_says(other, of_theirs, tmp_path):
    assert not describes(tiny_suite(tmp_path, *THEIRS, other), of_theirs)


def test_a_row_of_a_method_that_is_not_installed_is_checked_as_far_as_it_can_be(
    of_theirs, tmp_path
):
    """The file would say nothing that a record can be compared with."""
    with pytest.raises(ConfigError) as error:
        describes(tiny_suite(tmp_path, *THEIRS, "method.theirs.training=3"), of_theirs)
    assert one_line(error).startswith("suite tiny: method.theirs.training = 3: ")


def test_a_row_on_an_encoder_that_is_not_installed_is_taken_at_its_word(tmp_path):
    theirs = 'encoder={kind="theirs", width=3}'
    config = resolved(tiny_suite(tmp_path), "gim")["gim"].as_dict()
    config |= {"encoder": {"kind": "theirs", "width": 3, "depth": 5}}
    assert describes(tiny_suite(tmp_path, theirs), config)
    assert not describes(tiny_suite(tmp_path, theirs, "encoder.width=4"), config)
    assert not describes(tiny_suite(tmp_path, theirs, "training.epochs=4"), config)


def test_an_old_record_of_a_method_that_is_not_installed_has_defaults_too(of_theirs, tmp_path):
    suite = tiny_suite(tmp_path, *THEIRS, "training.optimiser.kind=adam")
    of_theirs["training"].pop("optimiser")
    assert describes(suite, of_theirs)
    other = tiny_suite(tmp_path, *THEIRS, "training.optimiser.kind=sgd")
    assert not describes(other, of_theirs)


def test_a_row_on_a_base_is_of_its_suite(tmp_path):
    """Its name is not among the suite's rows."""
    config = resolved(tiny_suite(tmp_path), "gim")["gim"].as_dict()
    config["method"] |= {"name": "gim_on_gim_0123abcd", "base": "0" * 64}
    assert describes(tiny_suite(tmp_path), config)
    assert not describes(tiny_suite(tmp_path, "training.epochs=9"), config)


# -- cells and keys -------------------------------------------------------------------------------


def test_cells_come_seed_by_seed(suite):
    table = cells(suite, resolved(suite), seeds=range(2), data_sha256="0" * 64)
    assert [cell.name for cell in table] == [
        "gim seed 0",
        "random_init seed 0",
        "gim seed 1",
        "random_init seed 1",
    ]


def test_a_key_is_the_same_every_time(suite):
    assert tiny_cell(suite, "gim").key == tiny_cell(suite, "gim").key
    assert len(tiny_cell(suite, "gim").key) == 64


def test_all_keys_of_a_table_differ(tmp_path):
    images = methods_for(Modality.IMAGE)
    listed = f"methods={json.dumps(images)}"
    suite = tiny_suite(tmp_path, listed, "objective.hinge.prediction_steps=2")
    table = cells(suite, resolved(suite), seeds=range(3), data_sha256="0" * 64)
    assert len({cell.key for cell in table}) == len(table) == 3 * len(images)


@pytest.mark.parametrize(
    "override",
    [
        "training.learning_rate=2e-3",
        "encoder.width=3",
        "probe.steps=3",
        "dataset.test_crops=2",
        "augmentation.flip=false",
        "info_nce.negatives=5",
        "info_nce.anchor_rows=2",
        "probe.fitted_steps=9",
    ],
)
def test_a_setting_that_can_move_the_numbers_changes_the_key(override, suite, tmp_path):
    assert tiny_cell(tiny_suite(tmp_path, override), "gim").key != tiny_cell(suite, "gim").key


def test_other_data_change_the_key(suite):
    other = tiny_cell(suite, "gim", data_sha256="1" * 64)
    assert other.key != tiny_cell(suite, "gim").key


def test_what_a_suite_says_of_itself_does_not_change_the_key(suite, tmp_path):
    renamed = tiny_suite(tmp_path, "summary=Another", 'name="renamed"', "seeds=9")
    assert tiny_cell(renamed, "gim").key == tiny_cell(suite, "gim").key


def test_an_option_of_another_method_does_not_change_the_key(suite, tmp_path):
    other = tiny_suite(tmp_path, "method.cpc.autoregressor=none")
    assert tiny_cell(other, "gim").key == tiny_cell(suite, "gim").key
    assert tiny_cell(other, "cpc").key != tiny_cell(suite, "cpc").key


def test_data_order_and_splits_are_drawn_from_data_set_and_seed_alone(suite):
    assert tiny_cell(suite, "gim", seed=3).stream == ("photos", 3)
    assert derive("data", "photos", 3) == derive("data", *tiny_cell(suite, "cpc", seed=3).stream)


@pytest.mark.parametrize(("units", "fits"), [(200, True), (10, False)])
def test_a_result_of_a_protocol_with_other_settings_is_not_the_suites(units, fits):
    suite = load_suite("stl10-published")
    settings = protocols_of(suite, ["deep_infomax"])["deep_infomax"]
    own = resolved(suite, "deep_infomax")["deep_infomax"]
    read = of_protocol("deep_infomax", settings, own=own.probe).as_dict()
    read["probe"] |= {"units": units, "precision": "bf16"}
    record = own.as_dict() | {READ_UNDER: "deep_infomax", READ: read}
    assert describes(suite, record) == fits
    assert not describes(suite, record | {READ_UNDER: "no_protocol"})


@pytest.mark.parametrize(("dropout", "fits"), [(0.1, True), (0.2, False)])
def test_a_result_of_a_protocol_from_before_a_setting_has_its_default(dropout, fits):
    name = "deep_infomax"
    suite = load_suite("stl10-published", overrides=[f"protocols.{name}.probe.dropout={dropout}"])
    own = resolved(suite, name)[name]
    read = of_protocol(name, protocols_of(suite, [name])[name], own=own.probe).as_dict()
    del read["probe"]["dropout"]
    assert describes(suite, own.as_dict() | {READ_UNDER: name, READ: read}) == fits


def test_equal_configurations_of_records_are_compared_once(suite, monkeypatch):
    asked = []

    def counted(suite, config):
        asked.append(config["method"]["name"])
        return describes(suite, config)

    monkeypatch.setattr(resolve, "describes", counted)
    ours = [config.as_dict() for config in resolved(suite).values()]
    theirs = json.loads(json.dumps(ours[0]))
    theirs["training"]["epochs"] += 1
    described = describer(suite)
    assert [described(config) for config in [*ours, *ours, theirs]] == [True] * 4 + [False]
    assert asked == ["gim", "random_init", "gim"]
