"""The models of a cell: how many, from which first weights, and for how many steps."""

import pytest
import torch
from safetensors.torch import load_file

from baselines.fixed_features import FixedFeatures
from gim_bench import registry, seeding
from gim_bench.cells.build import build, models_of, planned_steps
from gim_bench.cells.run import run_cell
from gim_bench.contract import Modality
from gim_bench.encoders.conv_gru import ConvGRUEncoder
from gim_bench.encoders.resnet import ResNetEncoder
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from tests.cells.tiny_cells import built, same
from tests.tiny_suite import (
    TOML,
    tiny_bench,
    tiny_cell,
    tiny_suite,
)

# -- models ---------------------------------------------------------------------------------------


def test_the_models_of_a_cell_are_named_after_their_targets(speech_suite, speech_bench):
    models = models_of(tiny_cell(speech_suite, "supervised"), speech_bench)
    assert [(model.name, model.prefix) for model in models] == [
        ("supervised seed 0, speaker", "speaker_"),
        ("supervised seed 0, phone", "phone_"),
    ]
    (gim,) = models_of(tiny_cell(speech_suite, "gim"), speech_bench)
    assert (gim.name, gim.prefix, len(gim.probed)) == ("gim seed 0", "", 2)


def test_a_supervised_method_on_images_is_one_model_without_a_prefix(suite, bench):
    (model,) = models_of(tiny_cell(suite, "supervised"), bench)
    assert (model.name, model.prefix) == ("supervised seed 0", "")


# -- first weights --------------------------------------------------------------------------------


def encoder_weights(suite, bench, method, *, seed):
    return built(tiny_cell(suite, method, seed=seed), bench).encoder.state_dict()


def methods_for(modality):
    """Methods with a network for examples of that kind."""
    kinds = {name: registry.method(name) for name in registry.methods()}
    return sorted(
        name
        for name, kind in kinds.items()
        if modality in kind.traits.modalities and not issubclass(kind, FixedFeatures)
    )


@pytest.mark.parametrize("method", methods_for(Modality.IMAGE))
def test_every_method_for_images_starts_from_the_encoder_that_random_init_reports(
    method, bench, done, archive, tmp_path
):
    few_rows = ["objective.hinge.prediction_steps=2"] if method == "clapp" else []
    suite = tiny_suite(tmp_path, f'methods=["{method}"]', *few_rows)
    reported = load_file(archive.folder_of(done["random_init"]) / "encoder.safetensors")
    assert all(same(encoder_weights(suite, bench, method, seed=0), reported))


@pytest.mark.parametrize("method", methods_for(Modality.SPEECH))
def test_every_method_for_speech_starts_from_what_it_keeps_of_that_encoder(
    method, speech_suite, speech_bench, spoken, archive
):
    """An ablation leaves parts of it out; what it has is the same."""
    reported = load_file(archive.folder_of(spoken["random_init"]) / "encoder.safetensors")
    ours = encoder_weights(speech_suite, speech_bench, method, seed=0)
    assert all(same(ours, {name: reported[name] for name in ours}))
    assert (ours.keys() == reported.keys()) == (method != "gim_no_ar")


def test_the_models_of_a_cell_start_from_the_same_encoder(speech_suite, speech_bench):
    cell = tiny_cell(speech_suite, "supervised")
    speaker, phone = (
        build(cell, speech_bench, target=target).encoder.state_dict()
        for target in speech_bench.targets
    )
    assert all(same(speaker, phone))


def test_another_seed_is_another_encoder(suite, bench):
    weights = [encoder_weights(suite, bench, "random_init", seed=seed) for seed in (0, 1)]
    assert not any(same(*({n: w for n, w in x.items() if "weight" in n} for x in weights)))


def test_the_first_weights_do_not_depend_on_what_ran_before(suite, bench):
    before = encoder_weights(suite, bench, "gim", seed=0)
    torch.rand(5)
    assert all(same(encoder_weights(suite, bench, "gim", seed=0), before))


def test_the_encoder_comes_from_the_seeds_own_stream(suite, bench):
    with seeding.weights_from("encoder", 0):
        expected = ResNetEncoder(
            tiny_cell(suite, "gim").config.encoder, shape=(1, 24, 24)
        ).state_dict()
    assert all(same(encoder_weights(suite, bench, "gim", seed=0), expected))


def test_the_encoder_of_speech_comes_from_the_seeds_own_stream(speech_suite, speech_bench):
    with seeding.weights_from("encoder", 0):
        expected = ConvGRUEncoder(
            tiny_cell(speech_suite, "gim").config.encoder, shape=(3200,)
        ).state_dict()
    assert all(same(encoder_weights(speech_suite, speech_bench, "gim", seed=0), expected))


@pytest.fixture
def twins(monkeypatch):
    """The same class under two names."""
    table = dict.fromkeys(("one", "two"), "tests.tiny_suite:Observed")
    monkeypatch.setattr(registry, "methods", lambda: table)


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize(
    ("method", "seed", "alike"), [("one", 0, True), ("two", 0, False), ("one", 1, False)]
)
def test_heads_and_negatives_depend_on_method_and_seed(method, seed, alike, suite, bench):
    first = built(tiny_cell(suite, "one", seed=0), bench)
    other = built(tiny_cell(suite, method, seed=seed), bench)
    heads = [
        {n: w for n, w in learner.heads.state_dict().items() if "weight" in n}
        for learner in (first, other)
    ]
    assert heads[0]
    assert all(equal == alike for equal in same(*heads))
    seeds = [learner.ingredients.stream("module_1").initial_seed() for learner in (first, other)]
    assert (seeds[0] == seeds[1]) == alike


def test_a_variant_starts_from_the_weights_and_sees_the_negatives_of_its_method(tmp_path):
    """So that what differs between two rows of one method is the procedure alone."""
    overrides = ("method.other.like=gim", "method.other.schedule=joint")
    suite = tiny_suite(tmp_path, *overrides)
    bench, runs = tiny_bench(suite), RunsFolder(tmp_path / "runs")
    gim, other = (run_cell(tiny_cell(suite, name), bench, runs=runs) for name in ("gim", "other"))
    assert other.status is Status.DONE, other.error
    assert gim.losses == other.losses


# -- budget ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "method", "steps"),
    [
        # 48 unlabelled and 32 labelled images in batches of 20: 2 and 1 steps in an epoch.
        ("epochs", "gim", 3 * 2),
        ("epochs", "supervised", 3 * 1),
        ("steps", "gim", 3 * 2),
        ("steps", "supervised", 3 * 2),
        ("steps", "random_init", 0),
        ("epochs", "random_init", 0),
    ],
)
def test_a_budget_in_epochs_or_in_steps(budget, method, steps, bench, tmp_path):
    suite = tiny_suite(tmp_path, "training.epochs=3", f"training.budget={budget}")
    assert planned_steps(tiny_cell(suite, method), bench) == steps


def test_a_row_may_have_the_budget_in_steps_where_its_suite_counts_epochs(bench, tmp_path):
    """As the rows of equal steps in the suite stl10: 2 unlabelled batches, 1 labelled batch."""
    row = '[method.equal]\nlike = "supervised"\ntraining = {budget = "steps"}\n'
    toml = TOML.replace('["gim", "random_init"]', '["gim", "supervised", "equal"]') + row
    suite = tiny_suite(tmp_path, "training.epochs=3", "training.budget=epochs", toml=toml)
    steps = {name: planned_steps(tiny_cell(suite, name), bench) for name in suite.methods}
    assert steps == {"gim": 6, "supervised": 3, "equal": 6}


def test_the_planned_steps_are_taken(bench, tmp_path):
    suite = tiny_suite(tmp_path, "training.epochs=3", "training.budget=steps")
    record = run_cell(tiny_cell(suite, "supervised"), bench, runs=RunsFolder(tmp_path))
    assert record.metrics["train/steps"] == 6
    assert record.metrics["train/samples"] == 6 * 20
    assert [row["epoch"] for row in record.losses] == [1, 2, 3, 4, 5, 6]
    assert record.metrics["loss"] == record.losses[-1]["module_2"] != record.losses[0]["module_2"]
