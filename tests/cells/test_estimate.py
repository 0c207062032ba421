"""What a cell would cost, from a few timed steps."""

from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import psutil
import pytest

from baselines.kmeans_patches import KMeansPatches
from baselines.random_init import RandomInit
from gim_bench.cells import estimate as estimates
from gim_bench.cells.estimate import estimate
from gim_bench.contract import Split
from gim_bench.datasets.speech.windows import tiles
from gim_bench.hardware import calibration
from tests.tiny_suite import SPEECH_TOML, TOML, tiny_bench, tiny_cell, tiny_suite


@pytest.fixture
def speech_suite_of(speech_suite, tmp_path):
    """The suite of speech with other settings."""
    return partial(tiny_suite, tmp_path, toml=SPEECH_TOML)


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
    """Made-up times: 0.5 s for four windows' features; 0.4 s for three steps of the one target and
    0.7 s of the other, of which 0.1 s is no step's.
    """
    lasted = iter([0.5, 0.4, 0.1, 0.7, 0.1])
    monkeypatch.setattr(estimates, "timed", lambda device: nullcontext([next(lasted)]))
    bench = tiny_bench(speech_suite)
    found = estimate(tiny_cell(speech_suite, "random_init"), bench)
    train, test = (
        sum(len(list(tiles(int(length), window=3200))) for length in bench.split(split).lengths)
        for split in (Split.TRAIN, Split.TEST)
    )
    steps = speech_suite.probe.steps
    probes = 2 * steps * (0.1 + 0.2)
    assert found.probe_seconds == pytest.approx(0.5 * (train + test) / 4 + probes)


def test_whole_recordings_are_read_at_their_lengths(speech_suite_of, monkeypatch):
    """Made-up times: 0.5 s for the features of the first recording.

    Recordings of the tiny data set have 399 to 9999 samples; none is read shorter than a window.
    """
    lasted = iter([0.5, 0.0, 0.0, 0.0, 0.0])
    monkeypatch.setattr(estimates, "timed", lambda device: nullcontext([next(lasted)]))
    suite = speech_suite_of("probe.whole_recordings=true")
    bench = tiny_bench(suite)
    found = estimate(tiny_cell(suite, "random_init"), bench)
    train, test = (bench.split(split).lengths for split in (Split.TRAIN, Split.TEST))
    samples = sum(max(3200, int(n) // 160 * 160) for n in (*train, *test))
    first = max(3200, int(train[0]) // 160 * 160)
    assert found.probe_seconds == pytest.approx(0.5 * samples / first)


def test_a_fit_without_gradients_is_timed_whole(suite, monkeypatch):
    """Made-up times: 7 s for the fit, and none for features and probes."""
    lasted = iter([7.0])
    monkeypatch.setattr(estimates, "timed", lambda device: nullcontext([next(lasted, 0.0)]))
    fitted = []
    monkeypatch.setattr(
        KMeansPatches, "fit_without_gradients", lambda self, batches: fitted.append(next(batches))
    )
    found = estimate(tiny_cell(suite, "kmeans_patches"), tiny_bench(suite))
    assert len(fitted) == 1
    assert (found.steps, found.train_seconds, found.probe_seconds) == (0, 7.0, 0.0)


def test_logistic_regressions_are_timed_for_a_few_iterations(tmp_path, monkeypatch):
    """Made-up times: 0.5 s for the first batch's features, 0.3 s for three iterations of all."""
    lasted = iter([0.5, 0.3])
    monkeypatch.setattr(estimates, "timed", lambda device: nullcontext([next(lasted)]))
    monkeypatch.setattr(estimates, "TIMED_LABELS", 6)
    suite = tiny_suite(tmp_path, "probe={iterations=20}")
    bench = tiny_bench(suite)
    cell = tiny_cell(suite, "random_init")
    train, test = (bench.batches(cell, split) for split in (Split.TRAIN, Split.TEST))
    features = 0.5 * (train.items + test.items) / train.batch_size
    fits = 0.3 / 3 * 20 * train.items / 6
    assert estimate(cell, bench).probe_seconds == pytest.approx(features + fits)


def test_steps_are_timed_without_the_first_and_multiplied(tmp_path, monkeypatch):
    """Made-up times: after the first step 4, 1 and 2 s, whose median counts."""
    suite = tiny_suite(tmp_path, "training.epochs=50", "dataset.unlabelled_crops=5")
    # In turn: what each timed block of the estimate is said to have lasted.
    lasted = iter([0.5, 4.0, 1.0, 2.0, 0.5, 0.25, 0.0])
    now = [0.0]

    def perf_counter():
        perf_counter.calls += 1
        if perf_counter.calls % 2 == 0:
            now[0] += next(lasted)
        return now[0]

    perf_counter.calls = 0
    monkeypatch.setattr(calibration.time, "perf_counter", perf_counter)
    cell, bench = tiny_cell(suite, "gim"), tiny_bench(suite)
    found = estimate(cell, bench)
    assert found.steps == 50 * 4
    assert found.train_seconds == 200 * 2.0


def test_probes_are_timed_without_what_is_loaded_at_first_use(tmp_path, monkeypatch):
    """Features, fits and penalties run once before they run on the clock."""
    ran, timed_runs, clock = Counter(), Counter(), estimates.timed

    @contextmanager
    def noted(device):
        before = ran.copy()
        with clock(device) as seconds:
            yield seconds
        timed_runs.update(ran - before)

    def counted(name, work):
        def run(*given, **how):
            ran[name] += 1
            return work(*given, **how)

        return run

    monkeypatch.setattr(estimates, "timed", noted)
    for place in (estimates, "logistic_regression"), (estimates, "train_linear"):
        monkeypatch.setattr(*place, counted(place[1], getattr(*place)))
    monkeypatch.setattr(RandomInit, "features", counted("features", RandomInit.features))
    for probe in ("probe={iterations=20}", "probe.steps=20"):
        ran.clear()
        timed_runs.clear()
        suite = tiny_suite(tmp_path, probe)
        estimate(tiny_cell(suite, "random_init"), tiny_bench(suite))
        assert ran == {name: 2 * runs for name, runs in timed_runs.items()}
        assert len(ran) == 2


def test_a_selection_on_unseen_examples_doubles_training_and_reads_training_examples_twice(
    tmp_path, monkeypatch
):
    """Only of methods that learn from labels. Fits are as many as without it."""
    monkeypatch.setattr(estimates, "timed", lambda device: nullcontext([1.0]))
    seconds = {}
    for unseen in ("false", "true"):
        suite = tiny_suite(tmp_path, f"probe.unseen_validation={unseen}")
        for method in ("gim", "supervised"):
            found = estimate(tiny_cell(suite, method), tiny_bench(suite))
            seconds[method, unseen] = np.array([found.train_seconds, found.probe_seconds])
    train, probe = seconds["supervised", "true"] / seconds["supervised", "false"]
    assert train == 2
    assert 1 < probe < 2
    assert np.allclose(seconds["gim", "true"], seconds["gim", "false"])


def test_a_suite_without_a_probe_costs_no_probe(tmp_path):
    toml = TOML[: TOML.index("[probe]")]
    suite = tiny_suite(tmp_path, toml=toml)
    assert suite.probe is None
    assert estimate(tiny_cell(suite, "gim"), tiny_bench(suite)).probe_seconds == 0


@pytest.mark.parametrize("settings", ["only=module_2", "schedule=sequential"])
def test_a_row_that_trains_one_module_at_a_time_is_estimated(settings, tmp_path):
    suite = tiny_suite(tmp_path, f"method.gim.{settings}")
    assert estimate(tiny_cell(suite, "gim"), tiny_bench(suite)).train_seconds > 0


def test_outputs_that_are_kept_are_computed_once_for_every_batch(tmp_path, monkeypatch):
    """Made-up times: 1 s for a step of either module, 0.5 s for a batch of the lower one's outputs.

    Two epochs' outputs are kept, of all six; an epoch has four batches.
    """
    lasted = iter([*([9.0, 1.0, 1.0, 1.0] * 2), 9.0, 0.5, 4.0, 0.25])
    monkeypatch.setattr(estimates, "timed", lambda device: nullcontext([next(lasted, 0.0)]))
    suite = tiny_suite(
        tmp_path,
        "method.gim.schedule=sequential",
        "training.kept_outputs={epochs=2}",
        "training.epochs=6",
        "training.held_out=0",
        "dataset.unlabelled_crops=5",
    )
    found = estimate(tiny_cell(suite, "gim"), tiny_bench(suite))
    assert found.steps == 2 * 6 * 4
    assert found.train_seconds == 2 * 6 * 4 * 1.0 + 2 * 4 * 0.5
