"""Which cells a suite asks for, their keys, and what they would cost."""

from contextlib import nullcontext

import psutil
import pytest

from gim_bench import registry
from gim_bench.cells import estimate as estimates
from gim_bench.cells.estimate import estimate
from gim_bench.cells.resolve import cells, configs, dataset_of, describes
from gim_bench.contract import Modality, Split
from gim_bench.datasets.speech.windows import tiles
from gim_bench.errors import ConfigError
from gim_bench.seeding import derive
from gim_bench.settings.schema import Precision, Recompute, Schedule
from gim_bench.settings.suites import load_suite, shipped_suites
from tests.tiny_suite import (
    CPU,
    SPEECH_TOML,
    TOML,
    noise_registered,
    tiny_bench,
    tiny_cell,
    tiny_suite,
)


@pytest.fixture
def speech_suite(tmp_path):
    with noise_registered():
        yield tiny_suite(tmp_path, toml=SPEECH_TOML)


def methods_for(modality):
    return [
        name for name in registry.methods() if modality in registry.method(name).traits.modalities
    ]


def resolved(suite, *methods):
    return configs(suite, methods=methods, device=CPU)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


# -- configurations --------------------------------------------------------------------------------


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
    assert cpc.method.options == {"autoregressor": "auto", "autoregressor_layers": 4}
    assert cpc.dataset.options["stripes"] == 4
    assert cpc.training.schedule == "interleaved"
    assert cpc.device == "cpu"


def test_options_of_a_methods_table_reach_that_method_alone(tmp_path):
    suite = tiny_suite(tmp_path, "method.cpc.autoregressor=none")
    found = resolved(suite, "gim", "cpc")
    assert found["cpc"].method.options["autoregressor"] == "none"
    assert found["gim"].method.options == {}


def test_precision_auto_is_decided(tmp_path):
    suite = tiny_suite(tmp_path, "training.precision=auto")
    assert resolved(suite)["gim"].training.precision in (Precision.FP32, Precision.BF16)


def test_a_suite_describes_the_configurations_it_resolves_to(tmp_path):
    overrides = ("training.precision=auto", "method.cpc.autoregressor=none")
    suite = tiny_suite(tmp_path, *overrides)
    for config in resolved(suite, "gim", "cpc").values():
        assert suite.describes(config.as_dict())
        for other in ("training.epochs=9", "capacity.up_to=9"):
            assert not tiny_suite(tmp_path, *overrides, other).describes(config.as_dict())


@pytest.mark.parametrize(
    "override",
    [
        "method.cpc.autoregressor=none",
        "method.cpc.schedule=joint",
        "method.cpc.recompute=layers",
        "method.cpc.only=module_1",
        "method.cpc.like=gim",
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


def test_rows_that_are_not_known_here_are_taken_at_their_word(tmp_path):
    """Such as those of a package that is not installed, or that train modules on a base."""
    suite = tiny_suite(tmp_path)
    config = resolved(suite, "gim")["gim"].as_dict()
    assert describes(suite, config | {"method": config["method"] | {"name": "theirs"}})


def test_the_suite_of_memory_looks_for_the_largest_batch_of_every_row():
    found = configs(load_suite("memory"), methods=[], device=CPU)
    assert {config.capacity.up_to for config in found.values()} == {16384}


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
    assert "[method.cpc]" in message
    assert "Did you mean 'autoregressor'?" in message


def test_an_option_of_the_wrong_type_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"\[method\.cpc\]: autoregressor_layers = 'many'"):
        resolved(tiny_suite(tmp_path, "method.cpc.autoregressor_layers=many"), "cpc")


def test_an_unknown_data_set_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as error:
        dataset_of(tiny_suite(tmp_path, "dataset.name=photo"))
    message = one_line(error)
    assert message.startswith(
        "no dataset 'photo' (suite tiny, dataset.name). Did you mean 'photos'"
    )


def test_an_unknown_option_of_the_data_set_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"'sise' .*\[dataset\].* Did you mean 'size'\?"):
        dataset_of(tiny_suite(tmp_path, "dataset.sise=3"))


# -- images and speech -----------------------------------------------------------------------------


def test_every_method_is_for_images_or_speech_and_most_for_both():
    images, speech = set(methods_for(Modality.IMAGE)), set(methods_for(Modality.SPEECH))
    assert images | speech == set(registry.methods())
    assert {"gim", "cpc", "supervised", "greedy_supervised", "random_init"} <= images & speech


def test_every_method_for_speech_is_configured_in_a_suite_of_speech(speech_suite):
    found = resolved(speech_suite, *methods_for(Modality.SPEECH))
    assert found["gim"].encoder == speech_suite.encoder
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


# -- cells and keys --------------------------------------------------------------------------------


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


def test_all_keys_of_a_table_differ(suite):
    images = methods_for(Modality.IMAGE)
    table = cells(suite, resolved(suite, *images), seeds=range(3), data_sha256="0" * 64)
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


# -- costs -----------------------------------------------------------------------------------------


def test_an_estimate_leaves_nothing_on_disk(suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    held = psutil.Process().memory_info().rss
    found = estimate(tiny_cell(suite, "gim"), tiny_bench(suite))
    assert sorted(tmp_path.rglob("*")) == before
    assert found.steps == 2
    assert found.train_seconds > 0
    assert found.probe_seconds > 0
    assert found.seconds == found.train_seconds + found.probe_seconds
    assert found.peak_bytes > held / 2  # the peak is that of this whole process


def test_a_method_that_trains_nothing_costs_its_probes_alone(suite):
    found = estimate(tiny_cell(suite, "random_init"), tiny_bench(suite))
    assert (found.steps, found.train_seconds) == (0, 0.0)
    assert found.probe_seconds > 0


def test_a_supervised_method_costs_a_model_for_each_target(speech_suite):
    bench = tiny_bench(speech_suite)
    assert estimate(tiny_cell(speech_suite, "gim"), bench).steps == 3
    assert estimate(tiny_cell(speech_suite, "supervised"), bench).steps == 2 * 2


def test_probes_of_speech_are_timed_target_by_target(speech_suite, monkeypatch):
    """Made-up times: 0.5 s for four windows' features, 0.3 s and 0.6 s for three steps of both."""
    lasted = iter([0.5, 0.3, 0.6])
    monkeypatch.setattr(estimates, "_timed", lambda device: nullcontext([next(lasted)]))
    bench = tiny_bench(speech_suite)
    found = estimate(tiny_cell(speech_suite, "random_init"), bench)
    train, test = (
        sum(len(list(tiles(int(length), window=3200))) for length in bench.split(split).lengths)
        for split in (Split.TRAIN, Split.TEST)
    )
    steps = speech_suite.probe.steps
    probes = 2 * steps * (0.1 + 0.2)
    assert found.probe_seconds == pytest.approx(0.5 * (train + test) / 4 + probes)


@pytest.mark.parametrize("name", shipped_suites())
def test_every_shipped_suite_names_data_and_methods_that_fit_together(name):
    suite = load_suite(name)
    assert list(configs(suite, methods=[], device=CPU)) == list(suite.methods)


def test_steps_are_timed_without_the_first_and_multiplied(tmp_path, monkeypatch):
    """Made-up times: after the first step 4, 1 and 2 s, whose median counts."""
    suite = tiny_suite(tmp_path, "training.epochs=50", "dataset.unlabelled_crops=5")
    # In turn: what each timed block of the estimate is said to have lasted.
    lasted = iter([0.5, 4.0, 1.0, 2.0, 0.5, 0.25])
    now = [0.0]

    def perf_counter():
        perf_counter.calls += 1
        if perf_counter.calls % 2 == 0:
            now[0] += next(lasted)
        return now[0]

    perf_counter.calls = 0
    monkeypatch.setattr(estimates.time, "perf_counter", perf_counter)
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    found = estimate(cell, bench)
    assert found.steps == 50 * 4
    assert found.train_seconds == 200 * 2.0


# -- rows that are variants ------------------------------------------------------------------------


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
    assert found.options == {"autoregressor": "auto", "autoregressor_layers": 2}


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
        ('schedule = "sideways"', ["schedule = 'sideways'", "[method.wanted]"]),
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


def test_a_suite_without_a_probe_costs_no_probe(tmp_path):
    toml = TOML[: TOML.index("[probe]")]
    suite = tiny_suite(tmp_path, toml=toml)
    assert suite.probe is None
    assert estimate(tiny_cell(suite, "gim"), tiny_bench(suite)).probe_seconds == 0


def test_an_option_that_makes_no_sense_for_speech_is_found_before_anything_runs(tmp_path):
    suite = load_suite("quickstart-audio", overrides=["method.cpc.autoregressor=none"])
    with pytest.raises(ConfigError, match="which is for images"):
        configs(suite, methods=["cpc"], device=CPU)


@pytest.mark.parametrize("settings", ["only=module_2", "schedule=sequential"])
def test_a_row_that_trains_one_module_at_a_time_is_estimated(settings, tmp_path):
    suite = tiny_suite(tmp_path, f"method.gim.{settings}")
    assert estimate(tiny_cell(suite, "gim"), tiny_bench(suite)).train_seconds > 0
