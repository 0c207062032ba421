"""A reference in which an untrained encoder would pass for a trained one is refused."""

import re
from dataclasses import replace

import numpy as np
import pytest

from gim_bench import RESULTS_VERSION
from gim_bench.check.judge import Outcome, judge
from gim_bench.check.making import update
from gim_bench.check.reference import Reference, read_reference, reference_path
from gim_bench.check.sight import UNTRAINED, seeds_of_a_check, sights, trained, unseen
from gim_bench.check.tolerance import ACCURACY, LOSS, compare, kind_of, seeds_to_see
from gim_bench.errors import ConfigError
from gim_bench.records.record import Record, Status
from gim_bench.settings.suites import load_suite
from tests.check.cells import COMMITTED, METRICS, cell, changed, reference_of
from tests.tiny_suite import tiny_suite

METHODS = ("gim", "supervised", "random_init")
LEVEL = 0.01 / 20


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return tiny_suite(tmp_path_factory.mktemp("suite"), f"methods={list(METHODS)}", "seeds=3")


def drawn(suite, *, means, seeds, spread=1.5, draw):
    """Cells whose accuracies lie around a method's mean, as seeds of real runs do."""
    return [
        with_accuracies(cell(suite, method, seed=seed), draw.normal(mean, spread))
        for method, mean in means.items()
        for seed in seeds
    ]


def with_accuracies(record, percent):
    return replace(
        record, metrics={n: percent if kind_of(n) is ACCURACY else x for n, x in METRICS.items()}
    )


@pytest.fixture(scope="module")
def seeing(suite):
    """Records of eight seeds with effects of 19 and 14 points."""
    means = {"gim": 35.0, "supervised": 30.0, "random_init": 16.0}
    return drawn(suite, means=means, seeds=range(8), draw=np.random.default_rng(0))


def refusal(records, suite):
    with pytest.raises(ConfigError, match="make no reference: an untrained encoder") as caught:
        reference_of(records, suite=suite)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- refused when it is made -----------------------------------------------------------------------


def test_a_reference_that_sees_half_of_the_effect_is_made_and_says_what_it_sees(
    suite, seeing, tmp_path
):
    lines = update(tmp_path / "seeing.json", seeing, suite=suite, reason="x")
    assert [line.split()[0] for line in lines] == ["gim", "supervised"]
    pattern = (
        r"1\d\.\d points above random_init's, where a check of 3 seed\(s\) against 8 tolerates"
    )
    assert all(re.search(pattern, line) for line in lines)


def test_a_method_that_trains_to_no_effect_makes_no_reference(suite):
    means = {"gim": 35.0, "supervised": 16.0, "random_init": 16.0}
    records = drawn(suite, means=means, seeds=range(8), draw=np.random.default_rng(1))
    message = refusal(records, suite)
    assert "supervised" in message
    assert "no number of seeds suffices: train longer" in message


def test_too_few_seeds_for_the_effect_are_refused_with_the_number_that_suffices(suite):
    """One seed is 1.5 points above the mean, the next is 1.5 below."""

    def seeds(number):
        means = {"gim": 35.0, "supervised": 28.0, "random_init": 16.0}
        return [
            with_accuracies(cell(suite, method, seed=seed), mean + 1.5 * (-1) ** seed)
            for method, mean in means.items()
            for seed in range(number)
        ]

    message = refusal(seeds(3), suite)
    enough = int(re.search(r"a reference of (\d+) seeds", message).group(1))
    assert 3 < enough < 20
    assert reference_of(seeds(enough), suite=suite)


def test_a_suite_of_one_seed_is_checked_with_as_many_seeds_as_the_reference_has(suite, tmp_path):
    """One seed has no spread; nobody checks by intervals with a single seed."""
    means = {"gim": 35.0, "supervised": 30.0, "random_init": 16.0}
    records = drawn(suite, means=means, seeds=range(5), draw=np.random.default_rng(4), spread=0.8)
    short = suite.model_copy(update={"seeds": 1})
    lines = update(tmp_path / "short.json", records, suite=short, reason="x")
    assert all("a check of 5 seed(s) against 5" in line for line in lines)
    assert all(re.search(r"by \d seeds on both sides \(--seeds \d\)", line) for line in lines)


def test_a_method_worse_than_the_untrained_encoder_is_refused(suite):
    means = {"gim": 35.0, "supervised": 5.0, "random_init": 16.0}
    records = drawn(suite, means=means, seeds=range(8), draw=np.random.default_rng(3))
    assert "11." in (message := refusal(records, suite))
    assert "points below random_init's" in message


def test_one_accuracy_that_sees_is_enough_for_a_method_with_one_encoder(suite, seeing):
    """The top module's accuracy is as the untrained one's, module 1's is not."""
    blind = [replace(r, metrics={**r.metrics, "accuracy": 16.0 + r.seed % 2}) for r in seeing]
    assert reference_of(blind, suite=suite)


def test_each_encoder_of_a_method_with_one_for_each_target_has_to_be_seen(suite, seeing):
    """A supervised encoder of phones is another than the one of speakers."""
    targets = {"gim": ("",), "random_init": ("",), "supervised": ("speaker_", "phone_")}
    records = [by_target(r, losses=targets[r.method]) for r in seeing]
    kept = reference_of(records, suite=suite)
    seen = [(s.method, s.metric) for s in sights(kept.methods, now=3)]
    assert seen[1:] == [("supervised", "speaker_accuracy"), ("supervised", "phone_accuracy")]
    untrained_phones = [
        replace(r, metrics={n: x - 14.0 * (n == "phone_accuracy") for n, x in r.metrics.items()})
        if r.method == "supervised"
        else r
        for r in records
    ]
    assert "supervised phone_accuracy" in refusal(untrained_phones, suite)


def by_target(record, *, losses):
    """The record with accuracies of speakers and phones, and one loss for each encoder."""
    top = record.metrics["accuracy"]
    return replace(
        record,
        metrics={
            "speaker_accuracy": top,
            "phone_accuracy": top,
            **{f"{target}loss": record.metrics["loss"] for target in losses},
        },
    )


@pytest.mark.parametrize("fault", ["no row", "another encoder", "no probe"])
def test_without_accuracies_of_the_encoder_untrained_a_reference_is_made_and_says_so(
    fault, suite, seeing, tmp_path
):
    records = {
        "no row": [r for r in seeing if r.method != UNTRAINED],
        "another encoder": [wider(r) if r.method == UNTRAINED else r for r in seeing],
        "no probe": [replace(r, metrics={"loss": r.metrics["loss"]}) for r in seeing],
    }[fault]
    methods = [m for m in METHODS if fault != "no row" or m != UNTRAINED]
    rows = {UNTRAINED: {"encoder": {"width": 99}}}
    own = suite.model_copy(update={"methods": tuple(methods), "method": rows})
    (line,) = update(tmp_path / "own.json", records, suite=own, reason="x")
    assert line.startswith("not known whether an untrained encoder would pass as gim, supervised")


def wider(record):
    encoder = {**record.config["encoder"], "width": 99}
    return replace(record, config={**record.config, "encoder": encoder})


# -- noticed when it is judged ---------------------------------------------------------------------


def in_place_of(records, method):
    """The method's cells as an untrained encoder would leave them: random_init's accuracies."""
    accuracies = {
        r.seed: {n: x for n, x in r.metrics.items() if kind_of(n) is ACCURACY}
        for r in records
        if r.method == UNTRAINED
    }
    return [
        replace(r, metrics={**r.metrics, **accuracies[r.seed]}) if r.method == method else r
        for r in records
    ]


@pytest.mark.parametrize("method", ["gim", "supervised"])
def test_an_untrained_encoder_in_place_of_a_trained_method_is_worse_by_accuracy(
    method, suite, seeing
):
    three = [r for r in seeing if r.seed < 3]
    verdict = judge(in_place_of(three, method), reference_of(seeing, suite=suite), suite=suite)
    worse = {(c.method, kind_of(c.metric)) for c in verdict.compared if c.found.worse}
    assert worse == {(method, ACCURACY)}


def test_a_reference_made_before_that_cannot_see_gives_no_verdict(suite, seeing):
    kept = reference_of(seeing, suite=suite)
    blind = kept.model_copy(
        update={"methods": kept.methods | {"supervised": like_untrained(kept, "supervised")}}
    )
    elsewhere = changed([r for r in seeing if r.seed < 3], threads=99)
    verdict = judge(elsewhere, blind, suite=suite)
    (finding,) = (found for found in verdict.findings if found.what == "sight")
    # Memory and speed are not compared there, which leaves each comparison a higher level.
    found = {s.method: s for s in sights(blind.methods, now=3, level=verdict.level)}
    assert verdict.level > sights(blind.methods, now=3)[0].level
    described = found["supervised"].described()
    assert finding.message == f"an untrained encoder would pass: {described}"
    assert (finding.method, verdict.exit_code) == ("supervised", 3)


# -- the number of seeds ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "change"), [(ACCURACY, 4.0), (ACCURACY, 7.0), (LOSS, 5.0)])
@pytest.mark.parametrize("now", [3, None])
def test_the_seeds_that_are_advised_notice_the_change_in_four_of_five_checks(kind, change, now):
    n = seeds_to_see(change, spread=1.5, now=now, kind=kind, level=LEVEL)
    assert power(n, now or n, change=change, kind=kind) >= 0.77
    fewer = n - 1
    assert power(fewer, now or fewer, change=change, kind=kind) < 0.83


def power(n, m, *, change, kind, times=600):
    draw = np.random.default_rng(0)
    before, now = draw.normal(60, 1.5, (times, n)), draw.normal(60 - change, 1.5, (times, m))
    pairs = zip(before.tolist(), now.tolist(), strict=True)
    return sum(compare(x, y, kind=kind, level=LEVEL).worse for x, y in pairs) / times


def test_a_change_below_the_floor_is_seen_by_no_number_of_seeds():
    assert seeds_to_see(0.9, spread=0.1, now=None, kind=ACCURACY, level=LEVEL) is None


# -- shipped references ----------------------------------------------------------------------------

SHIPPED = sorted(path.stem for path in reference_path("smoke").parent.glob("*.json"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_reference_tells_each_trained_method_from_an_untrained_encoder(name):
    kept = read_reference(reference_path(name), suite=name)
    kept = kept.model_copy(update={"results_version": RESULTS_VERSION})
    suite = load_suite(name)
    assert unseen(kept.methods) == []
    for method in trained(kept.methods):
        planted = in_place_of(remembered(kept, seeds=seeds_of_a_check(suite)), method)
        verdict = judge(planted, kept, suite=suite)
        worse = {(c.method, kind_of(c.metric)) for c in verdict.compared if c.found.worse}
        assert (method, ACCURACY) in worse, method
    assert [
        s.described() for s in sights(kept.methods, now=seeds_of_a_check(suite)) if not s.sees
    ] == []


def remembered(kept: Reference, *, seeds: int | None):
    """Records of the first seeds of the reference (None: all seeds), as of another machine."""
    return [
        Record(
            suite=kept.suite,
            method=method,
            dataset=of_method.config["dataset"]["name"],
            seed=seed,
            key="",
            status=Status.DONE,
            metrics={name: values[seed] for name, values in of_method.metrics.items()},
            config=of_method.config | {"device": kept.machine.device},
            provenance={
                **COMMITTED,
                "data_sha256": kept.data_sha256,
                "results_version": RESULTS_VERSION,
            },
        )
        for method, of_method in kept.methods.items()
        for seed in of_method.seeds[:seeds]
    ]


def like_untrained(kept: Reference, method: str):
    """The method's reference with random_init's accuracies."""
    theirs = kept.methods[UNTRAINED].metrics
    ours = kept.methods[method]
    metrics = {n: theirs[n] if kind_of(n) is ACCURACY else x for n, x in ours.metrics.items()}
    return ours.model_copy(update={"metrics": metrics})


def test_outcomes_of_planted_encoders_are_failures(suite, seeing):
    verdict = judge(in_place_of(seeing, "gim"), reference_of(seeing, suite=suite), suite=suite)
    assert (verdict.outcome, verdict.exit_code) == (Outcome.WORSE, 1)
