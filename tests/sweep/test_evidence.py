"""Evidence for learning rates: from the trials of all rows and seeds to the chosen rates."""

import pytest
import torch

from gim_bench.cells.resolve import configs
from gim_bench.contract import GradientFlow
from gim_bench.errors import ConfigError
from gim_bench.records.record import Record, Status
from gim_bench.report.rates import load_evidence
from gim_bench.settings.shipped import shipped_suites
from gim_bench.settings.suites import load_suite
from gim_bench.sweep.evidence import check_unseen, evidence_of, rates_of, settings_sha256
from gim_bench.sweep.pretraining import Pretraining
from gim_bench.sweep.spaces import parse_space
from tests.tiny_suite import tiny_cell, tiny_suite

(RATES,) = parse_space(["training.learning_rate=1e-3,1e-2"])


def swept(method, seed, *accuracies):
    """The sweep of a method and seed; an accuracy of None is a failed trial."""
    trials = [
        {
            "settings": {"training.learning_rate": rate},
            "validation_accuracy": accuracy,
            "state": "failed" if accuracy is None else "complete",
            "error": "the loss is nan" if accuracy is None else None,
            "key": f"{method}-{seed}-{rate}",
        }
        for rate, accuracy in zip((1e-3, 1e-2), accuracies, strict=True)
    ]
    return {"method": method, "seed": seed, "trials": trials}


def evidence(folder, *sweeps, records=()):
    suite = tiny_suite(folder)
    cells = [tiny_cell(suite, found["method"], seed=found["seed"]) for found in sweeps]
    return evidence_of(sweeps, cells, rates=RATES, records=records)


def of_trials(found, *commits):
    """The record of each trial, at its commit and on a machine of the past."""
    return [
        Record(
            suite="tiny",
            method=found["method"],
            dataset="noise",
            seed=found["seed"],
            key=trial["key"],
            status=Status.DONE,
            provenance={
                "git_commit": commit,
                "cpu": "Pentium",
                "finished_at": f"2026-01-0{day}T00:00:00+00:00",
            },
        )
        for day, (trial, commit) in enumerate(zip(found["trials"], commits, strict=True), 1)
    ]


def test_commit_date_and_machine_are_those_of_the_trials(tmp_path):
    """However much later, and wherever, the evidence is written."""
    found = swept("gim", 0, 60.0, 50.0)
    kept = evidence(tmp_path, found, records=of_trials(found, "abc", "abc"))
    assert (kept.provenance["git_commit"], kept.provenance["cpu"]) == ("abc", "Pentium")
    assert kept.date == "2026-01-02T00:00:00+00:00"


def test_trials_of_several_commits_name_them_all(tmp_path):
    """The record of a trial of another machine may be elsewhere."""
    found = swept("gim", 0, 60.0, 50.0)
    both = of_trials(found, "abc", "def")
    assert evidence(tmp_path, found, records=both).provenance["git_commit"] == ["abc", "def"]
    assert evidence(tmp_path, found, records=both[:1]).provenance["git_commit"] == ["abc", None]


def test_the_chosen_rate_has_the_highest_mean_over_the_seeds(tmp_path):
    """Of seed 0 alone the first rate would be better."""
    found = evidence(tmp_path, swept("gim", 0, 60.0, 50.0), swept("gim", 1, 20.0, 40.0))
    assert found.methods["gim"].learning_rate == 1e-2
    assert [tried.mean for tried in found.methods["gim"].tried] == [40.0, 45.0]
    assert (found.trials, found.seeds, found.suite) == (2, (0, 1), "tiny")


def test_a_rate_that_failed_with_one_seed_is_not_chosen(tmp_path):
    found = evidence(tmp_path, swept("gim", 0, 20.0, 90.0), swept("gim", 1, 20.0, None))
    row = found.methods["gim"]
    assert row.learning_rate == 1e-3
    assert row.tried[1].validation_accuracy == {"0": 90.0, "1": None}
    assert row.tried[1].reasons == {"1": "the loss is nan"}


def test_a_rate_that_a_seed_has_not_tried_is_not_chosen_and_says_so(tmp_path):
    """As in a database of trials that an earlier version drew from the rates."""
    partly = swept("gim", 1, 20.0, 90.0)
    del partly["trials"][1]
    row = evidence(tmp_path, swept("gim", 0, 20.0, 90.0), partly).methods["gim"]
    assert row.learning_rate == 1e-3
    assert row.tried[1].validation_accuracy == {"0": 90.0, "1": None}
    assert row.tried[1].reasons == {"1": "not tried"}


def test_among_equal_rates_the_lowest_is_chosen(tmp_path):
    assert evidence(tmp_path, swept("gim", 0, 50.0, 50.0)).methods["gim"].learning_rate == 1e-3


def test_rows_are_chosen_for_apart(tmp_path):
    found = evidence(tmp_path, swept("gim", 0, 10.0, 20.0), swept("cpc", 0, 20.0, 10.0))
    assert {name: row.learning_rate for name, row in found.methods.items()} == {
        "gim": 1e-2,
        "cpc": 1e-3,
    }


def test_a_row_whose_every_rate_failed_has_no_evidence(tmp_path):
    with pytest.raises(ConfigError, match="no learning rate of gim was completed"):
        evidence(tmp_path, swept("gim", 0, None, 50.0), swept("gim", 1, 50.0, None))


@pytest.mark.parametrize(
    "space", [["training.learning_rate=1e-3..1e-2"], ["training.epochs=1,2"], []]
)
def test_evidence_is_about_one_list_of_rates(space):
    with pytest.raises(ConfigError, match="--evidence is about a list of learning rates"):
        rates_of(plan_of(*space))


def test_evidence_needs_every_rate_with_every_seed():
    space = "training.learning_rate=1e-3,3e-3,1e-2"
    with pytest.raises(ConfigError, match="--trials 2 leaves some out"):
        rates_of(plan_of(space, trials=2))
    assert rates_of(plan_of(space, trials=3)).ends == ("1e-3", "3e-3", "1e-2")


def plan_of(*space, trials=None):
    return Pretraining(
        suite="tiny", overrides=(), axes=parse_space(space), trials=trials, apart=False
    )


@pytest.mark.parametrize("method", ["supervised", "greedy_supervised"])
def test_no_encoder_is_scored_on_labels_that_it_was_trained_on(method, tmp_path):
    seen, unseen = (tiny_suite(tmp_path, f"probe.unseen_validation={x}") for x in ("false", "true"))
    with pytest.raises(ConfigError, match=f"would score {method} on labels .* was trained on"):
        check_unseen([tiny_cell(seen, "gim"), tiny_cell(seen, method)])
    check_unseen([tiny_cell(unseen, "gim"), tiny_cell(unseen, method)])
    check_unseen([tiny_cell(seen, "gim")])


def config(folder, *overrides):
    return tiny_cell(tiny_suite(folder, *overrides), "gim").config


def test_another_rate_precision_or_validation_leaves_the_settings_of_a_row_alone(
    tmp_path,
):
    plain = settings_sha256(config(tmp_path))
    assert settings_sha256(config(tmp_path, "training.learning_rate=1e-1")) == plain
    assert settings_sha256(config(tmp_path, "training.precision=bf16")) == plain
    assert settings_sha256(config(tmp_path, "probe.unseen_validation=true")) == plain


@pytest.mark.parametrize(
    "changed", ["training.epochs=2", "info_nce.negatives=5", "dataset.size=27"]
)
def test_any_other_setting_makes_other_settings_of_a_row(changed, tmp_path):
    assert settings_sha256(config(tmp_path, changed)) != settings_sha256(config(tmp_path))


# -- shipped suites --------------------------------------------------------------------------------


def complaints(suite):
    """The rows of a suite that its evidence does not support, a line each."""
    found, resolved = (
        load_evidence(suite.tuned),
        configs(suite, methods=(), device=torch.device("cpu")),
    )
    for name, config in resolved.items():
        if config.method.gradient_flow == GradientFlow.NONE:
            continue
        row, rate = found.methods.get(name), config.training.learning_rate
        if row is None:
            yield f"{name}: no evidence"
        elif rate != row.learning_rate:
            yield f"{name}: the rate is {rate:g}, and the evidence chose {row.learning_rate:g}"
        elif row.settings != settings_sha256(config):
            yield f"{name}: settings were changed after the sweep"


@pytest.mark.parametrize("name", shipped_suites())
def test_a_tuned_suite_has_the_rates_that_its_evidence_chose(name):
    """Neither can be edited without the other."""
    suite = load_suite(name)
    assert suite.tuned is None or list(complaints(suite)) == []


def test_a_suite_without_its_evidence_s_rate_or_settings_is_complained_of(tmp_path, monkeypatch):
    """As the test above would find it."""
    kept = evidence(tmp_path, swept("gim", 0, 10.0, 20.0))
    monkeypatch.setitem(globals(), "load_evidence", lambda name: kept)
    gim = "methods=['gim']"
    tuned, other = "training.learning_rate=1e-2", "training.epochs=3"
    assert list(complaints(tiny_suite(tmp_path, gim, tuned))) == []
    assert list(complaints(tiny_suite(tmp_path, gim))) == [
        "gim: the rate is 0.001, and the evidence chose 0.01"
    ]
    assert list(complaints(tiny_suite(tmp_path, gim, tuned, other))) == [
        "gim: settings were changed after the sweep"
    ]
    assert list(complaints(tiny_suite(tmp_path, "methods=['cpc', 'random_init']", tuned))) == [
        "cpc: no evidence"
    ]
