"""Probes on features with known answers: what is asked, what is counted, and what may choose."""

import pytest
import torch

from gim_bench import seeding
from gim_bench.contract import Batch, Target
from gim_bench.datasets.batches import Batches
from gim_bench.errors import DataError
from gim_bench.probing.adam import train_linear
from gim_bench.probing.probe import choose, curves_of, probe
from gim_bench.probing.questions import question, validation_items
from gim_bench.probing.reading import Reader, metric_name, readable
from gim_bench.progress import Silence
from gim_bench.settings.base import Precision
from gim_bench.settings.probing import AdamProbeSettings, LogisticRegressionSettings
from tests.listener import Listener
from tests.tiny_suite import CPU, Scripted

STREAM = ("noise", 0)
CLASSES, DIM, STEPS = 3, 6, 5
CLASS = Target(name="class", classes=("a", "b", "c"))
SPEAKER = Target(name="speaker", classes=("ann", "ben", "cat"))
PHONE = Target(name="phone", classes=("x", "y", "z"), per_step=True)


class Given(Batches):
    """Examples whose inputs [example step d] are the features that are probed."""

    noun = "window"
    noun_of_items = "recording"

    def __init__(self, inputs, labels, *, groups=None, batch_size=7, stream=STREAM):
        super().__init__(batch_size=batch_size, stream=stream, device=CPU)
        self.inputs, self._labels = inputs, labels
        self._groups = torch.arange(len(inputs)) if groups is None else groups
        self.passes = 0

    @property
    def items(self):
        return len(self._groups.unique())

    @property
    def labels(self):
        return self._labels

    @property
    def groups(self):
        return self._groups

    @property
    def items_of_examples(self):
        return self._groups

    def in_order(self):
        self.passes += 1
        for chosen in torch.arange(len(self.inputs)).split(self.batch_size):
            labels = {name: found[chosen] for name, found in self._labels.items()}
            yield Batch(inputs=self.inputs[chosen], labels=labels)

    def _augmented(self, chosen, streams):
        raise AssertionError("probes do not augment")


class Reads(Scripted):
    """Module 2 finds the inputs as they are, module 1 noise; its own head says what it is told."""

    def __init__(self, head=lambda inputs: None):
        super().__init__()
        self.head = head

    def features(self, inputs):
        noise = torch.sin(1e4 * inputs)
        return {"module_1": noise, "module_2": inputs}

    def predict(self, features):
        return self.head(features["module_2"])


def speech(recordings=30, *, windows=2, apart=20.0, seed=0, phones=None, **options):
    """Windows of recordings whose first three dimensions tell the phone, the others the speaker.

    Both are clouds of deviation 1; a fifth of the steps has no label.
    """
    draw = torch.Generator().manual_seed(seed)
    groups = torch.arange(recordings).repeat_interleave(windows)
    speakers = groups % CLASSES
    said = torch.randint(CLASSES, (len(groups), STEPS), generator=draw)
    inputs = torch.randn(len(groups), STEPS, DIM, generator=draw)
    inputs[:, :, :CLASSES] += apart * torch.eye(CLASSES)[said]
    inputs[:, :, CLASSES:] += apart * torch.eye(CLASSES)[speakers][:, None]
    if phones is None:
        phones = said.masked_fill(torch.rand(said.shape, generator=draw) < 0.2, -1)
    return Given(inputs, {"speaker": speakers, "phone": phones}, groups=groups, **options)


def images(number=60, *, apart=20.0, seed=0, **options):
    """One step each; the classes take turns."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % CLASSES
    inputs = torch.randn(number, 1, DIM, generator=draw)
    inputs[:, 0, :CLASSES] += apart * torch.eye(CLASSES)[labels]
    return Given(inputs, {"class": labels}, **options)


def probe_settings(**changes):
    return AdamProbeSettings(
        **{"learning_rates": (1e-2, 1e-1), "steps": 20, "batch_size": 16, "neighbours": 3} | changes
    )


def probed(train, test, *targets, learner=None, progress=None, **changes):
    return probe(
        learner or Reads(),
        train=train,
        test=test,
        targets=targets,
        settings=probe_settings(**changes),
        precision=Precision.FP32,
        title="gim",
        progress=progress or Silence(),
    )


# -- what is asked, and of whom --------------------------------------------------------------------


def test_all_labelled_steps_are_asked_about_where_no_limit_is_set():
    train = speech()
    asked = question(train, PHONE, settings=probe_settings())
    phones = train.labels["phone"].flatten()
    assert asked.places.tolist() == [place for place, label in enumerate(phones) if label >= 0]
    assert torch.equal(asked.labels, phones[phones >= 0])


@pytest.mark.parametrize("limit", [20, 100, 10_000], ids=["few", "many", "more than there are"])
def test_at_most_the_fitted_steps_are_asked_about(limit):
    train = speech()
    asked = question(train, PHONE, settings=probe_settings(fitted_steps=limit))
    phones = train.labels["phone"].flatten()
    assert len(asked.places) == min(limit, int((phones >= 0).sum()))
    assert sorted(set(asked.places.tolist())) == asked.places.tolist()
    assert torch.equal(asked.labels, phones[asked.places])
    assert asked.labels.min() >= 0


def test_fitted_steps_are_drawn_from_everywhere_alike():
    """100 of 10,000, over and over: every tenth of the split gives a tenth of them."""
    train = speech(1000, phones=torch.zeros(2000, STEPS, dtype=torch.long))
    counts = torch.zeros(10)
    for seed in range(40):
        train.stream = ("noise", seed)
        asked = question(train, PHONE, settings=probe_settings(fitted_steps=100))
        counts += (asked.places // 1000).bincount(minlength=10)
    assert counts.numpy() == pytest.approx(400, rel=0.2)


def test_a_limit_on_steps_takes_no_example_from_the_other_targets():
    train = speech()
    asked = question(train, SPEAKER, settings=probe_settings(fitted_steps=7))
    assert len(asked.places) == 60


def same(one, other):
    return torch.equal(one.places, other.places) and torch.equal(one.validating, other.validating)


@pytest.mark.parametrize("target", [SPEAKER, PHONE], ids=lambda target: target.name)
def test_every_method_is_asked_the_same_at_the_same_data_set_and_seed(target):
    """Nothing of the method goes in, nor the size of its batches."""
    settings = probe_settings(fitted_steps=60)
    first, again, seed, dataset = (
        question(speech(stream=stream, batch_size=size), target, settings=settings)
        for stream, size in [(STREAM, 7), (STREAM, 3), (("noise", 1), 7), (("espeak", 0), 7)]
    )
    assert same(first, again)
    assert not same(first, seed)
    assert not same(first, dataset)


def test_questions_do_not_depend_on_the_global_generator_nor_move_it():
    settings = probe_settings(fitted_steps=60)
    torch.manual_seed(1)
    first = question(speech(), PHONE, settings=settings)
    torch.manual_seed(2)
    train, before = speech(), torch.get_rng_state()
    assert same(question(train, PHONE, settings=settings), first)
    assert torch.equal(torch.get_rng_state(), before)


# -- validation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [SPEAKER, PHONE], ids=lambda target: target.name)
@pytest.mark.parametrize("limit", [None, 60])
def test_no_recording_has_windows_on_both_sides(target, limit):
    train = speech(40, windows=3)
    settings = probe_settings(validation_fraction=0.25, fitted_steps=limit)
    asked = question(train, target, settings=settings)
    steps = STEPS if target.per_step else 1
    recordings = train.groups[asked.places // steps]
    validating = set(recordings[asked.validating].tolist())
    fitting = set(recordings[~asked.validating].tolist())
    assert not validating & fitting
    assert len(validating) == round(0.25 * len(validating | fitting))
    assert limit or validating | fitting == set(range(40))


def test_what_tells_recordings_apart_does_not_validate():
    """Each recording has a mark of its own; a split of windows would find it in both halves."""
    recordings, windows = 40, 5
    groups = torch.arange(recordings).repeat_interleave(windows)
    draw = torch.Generator().manual_seed(0)
    speakers = torch.randint(CLASSES, (recordings,), generator=draw)[groups]
    marks = torch.eye(recordings)[groups][:, None]
    train = Given(marks, {"speaker": speakers}, groups=groups)
    found = probed(train, train, SPEAKER, steps=80)
    assert found.metrics["speaker_accuracy"] == 100.0
    assert all(percent < 70 for _, percent in found.curves["speaker/module_2"])


@pytest.mark.parametrize(
    ("number", "fraction", "held_out"),
    [(100, 0.2, 20), (7, 0.2, 1), (33, 0.5, 16), (2, 0.1, 1), (2, 0.9, 1)],
)
def test_images_are_held_out_one_by_one_and_some_are_left_to_fit_on(number, fraction, held_out):
    settings = probe_settings(validation_fraction=fraction)
    asked = question(images(number), CLASS, settings=settings)
    assert int(asked.validating.sum()) == held_out
    assert asked.places.tolist() == list(range(number))


def test_the_validation_images_are_drawn_at_random_from_the_stream():
    order = torch.randperm(60, generator=seeding.generator("validation", *STREAM))
    asked = question(images(60), CLASS, settings=probe_settings())
    assert set(asked.places[asked.validating].tolist()) == set(order[:12].tolist())


@pytest.mark.parametrize("labelled", [0, 1])
def test_too_few_labelled_recordings_are_one_line(labelled):
    train = speech(5)
    train.labels["phone"][2 * labelled :] = -1
    train.labels["phone"][: 2 * labelled] = 1
    with pytest.raises(DataError) as error:
        probed(train, speech(seed=1), SPEAKER, PHONE)
    message = str(error.value)
    assert message.startswith(
        f"{labelled} recording(s) of the training split have a phone label; the probe needs two "
        f"or more"
    )
    assert "\n" not in message


def test_two_labelled_recordings_are_enough():
    train = speech(5)
    train.labels["phone"][4:] = -1
    asked = question(train, PHONE, settings=probe_settings())
    assert 0 < int(asked.validating.sum()) < len(asked.places)


# -- reading features ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("limit", [None, 50])
def test_features_are_read_at_the_places_asked_about(batch_size, limit):
    """Against a loop over places; the batch size moves nothing."""
    train = speech(batch_size=batch_size)
    settings = probe_settings(fitted_steps=limit)
    asked = [question(train, target, settings=settings) for target in (SPEAKER, PHONE)]
    reader = Reader(Reads(), precision=Precision.FP32, title="t", progress=Silence())
    found = reader.features_of(train, asked)
    speakers, phones = (found[one, "module_2"] for one in asked)
    torch.testing.assert_close(speakers, train.inputs.mean(dim=1))
    expected = [train.inputs[place // STEPS, place % STEPS] for place in asked[1].places.tolist()]
    assert torch.equal(phones, torch.stack(expected))


def test_features_are_kept_in_full_precision():
    learner = Reads()
    learner.features = lambda inputs: {"module_1": inputs.bfloat16()}
    reader = Reader(learner, precision=Precision.BF16, title="t", progress=Silence())
    train = images()
    asked = question(train, CLASS, settings=probe_settings())
    assert reader.features_of(train, [asked])[asked, "module_1"].dtype == torch.float32


def test_a_probe_of_examples_reads_the_mean_over_steps_and_one_of_steps_reads_each():
    features = torch.arange(12.0).view(2, 3, 2)
    assert readable(features, SPEAKER).tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert torch.equal(readable(features, PHONE), torch.arange(12.0).view(6, 2))


def test_both_splits_are_read_once_the_test_set_last():
    train, test, listener = speech(), speech(11, seed=1), Listener()
    probed(train, test, SPEAKER, PHONE, progress=listener)
    assert (train.passes, test.passes) == (1, 1)
    assert listener.tasks == [
        ("gim: train features", 60, "window"),
        ("gim: probes", 4, "probe"),
        ("gim: test features", 22, "window"),
    ]
    assert listener.steps == 60 + 4 + 22


# -- what is counted -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
@pytest.mark.parametrize("limit", [None, 150])
def test_every_labelled_step_of_the_test_set_counts_whatever_the_batch_size(batch_size, limit):
    """The probe is never wrong but where a label was changed: seven phones and two speakers."""
    test = speech(11, seed=1, batch_size=batch_size)
    phones, speakers = test.labels["phone"], test.labels["speaker"]
    labelled = (phones.flatten() >= 0).nonzero().squeeze(1)
    changed = labelled[torch.linspace(0, len(labelled) - 1, 7).long()]
    phones.view(-1)[changed] = (phones.flatten()[changed] + 1) % CLASSES
    speakers[[0, 21]] = (speakers[[0, 21]] + 1) % CLASSES
    metrics = probed(speech(), test, SPEAKER, PHONE, fitted_steps=limit).metrics
    expected = 100 * (len(labelled) - 7) / len(labelled)
    assert metrics["phone_accuracy"] == metrics["phone_accuracy/module_2"] == expected
    for name in ("accuracy", "ridge_accuracy", "knn_accuracy"):
        assert metrics[f"speaker_{name}"] == 100 * 20 / 22


def test_the_batch_size_changes_no_accuracy_even_of_a_poor_probe():
    found = [
        probed(
            speech(apart=1.0, batch_size=size), speech(apart=1.0, seed=1, batch_size=size),
            SPEAKER, PHONE,
        ).metrics
        for size in (1, 4, 1000)
    ]  # fmt: skip
    assert found[0] == found[1] == found[2]
    assert all(30 < value < 100 for name, value in found[0].items() if "module_1" not in name)


def test_steps_without_a_label_are_neither_fitted_nor_counted():
    """Their features are no numbers: whatever they touched would be none either."""
    train, test = speech(), speech(11, seed=1)
    for split in (train, test):
        split.inputs[split.labels["phone"] < 0] = float("nan")
    found = probed(train, test, PHONE)
    assert found.metrics["phone_accuracy"] == 100.0
    assert all(percent == 100.0 for _, percent in found.curves["phone/module_2"])


def test_every_module_is_probed_and_the_bare_names_are_the_top_ones():
    found = probed(images(90), images(60, seed=1), CLASS)
    for name in ("accuracy", "ridge_accuracy", "knn_accuracy"):
        assert found.metrics[name] == found.metrics[f"{name}/module_2"] == 100.0
        assert found.metrics[f"{name}/module_1"] < 70.0
    assert len(found.metrics) == 9
    assert set(found.curves) == {"module_1", "module_2"}


def test_metrics_and_curves_bear_the_name_of_their_target():
    """Ridge and neighbours are not asked about steps, which are many."""
    found = probed(speech(), speech(11, seed=1), SPEAKER, PHONE)
    places = ("", "/module_1", "/module_2")
    assert set(found.metrics) == {
        f"{name}{place}"
        for name in ("speaker_accuracy", "speaker_ridge_accuracy", "speaker_knn_accuracy",
                     "phone_accuracy")
        for place in places
    }  # fmt: skip
    assert set(found.curves) == {
        "speaker/module_1", "speaker/module_2", "phone/module_1", "phone/module_2",
    }  # fmt: skip
    for curve in found.curves.values():
        assert [rate for rate, _ in curve] == [1e-2, 1e-1]


@pytest.mark.parametrize(
    ("target", "name"), [(CLASS, "loss"), (SPEAKER, "speaker_loss"), (PHONE, "phone_loss")]
)
def test_only_the_class_of_an_image_needs_no_prefix(target, name):
    assert metric_name(target, "loss") == name


def test_each_targets_probe_answers_as_if_it_were_asked_alone():
    train, test = speech(apart=1.0), speech(apart=1.0, seed=1)
    both = probed(train, test, SPEAKER, PHONE, fitted_steps=90)
    for target in (SPEAKER, PHONE):
        alone = probed(train, test, target, fitted_steps=90)
        assert alone.metrics.items() <= both.metrics.items()
        assert alone.curves.items() <= both.curves.items()


def test_the_same_features_give_the_same_numbers_every_time():
    first, second = (
        probed(speech(apart=1.0), speech(apart=1.0, seed=1), SPEAKER, PHONE) for _ in range(2)
    )
    assert (first.metrics, first.curves) == (second.metrics, second.curves)
    assert first.predictions.packed() == second.predictions.packed()


# -- a head of its own -----------------------------------------------------------------------------


def test_without_a_head_there_is_no_accuracy_of_one():
    assert "accuracy/own_head" not in probed(images(), images(seed=1), CLASS).metrics


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_an_own_head_for_images_is_counted_over_all_of_them(batch_size):
    """It is wrong about the sixth part of the test images that was given another label."""
    test = images(30, seed=1, batch_size=batch_size)
    test.labels["class"][::6] = (test.labels["class"][::6] + 1) % CLASSES
    learner = Reads(lambda inputs: inputs[:, :, :CLASSES])
    metrics = probed(images(), test, CLASS, learner=learner).metrics
    assert metrics["accuracy/own_head"] == pytest.approx(100 * 25 / 30)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_an_own_head_for_steps_is_counted_over_the_labelled_ones(batch_size):
    test = speech(11, seed=1, batch_size=batch_size)
    phones = test.labels["phone"]
    phones[3] = (phones[3] + 1).where(phones[3] >= 0, -1) % CLASSES
    phones[4] = -1
    known = phones >= 0
    right = (test.inputs[:, :, :CLASSES].argmax(dim=2) == phones) & known
    learner = Reads(lambda inputs: inputs[:, :, :CLASSES])
    metrics = probed(speech(), test, PHONE, learner=learner).metrics
    assert metrics["phone_accuracy/own_head"] == 100 * int(right.sum()) / int(known.sum()) < 100
    assert not any(name.startswith("speaker") for name in metrics)


def test_an_own_head_for_speakers_answers_once_for_each_window():
    test = speech(10, seed=1)
    test.labels["speaker"][:5] = (test.labels["speaker"][:5] + 1) % CLASSES
    learner = Reads(lambda inputs: inputs.mean(dim=1, keepdim=True)[:, :, CLASSES:])
    metrics = probed(speech(), test, SPEAKER, learner=learner).metrics
    assert metrics["speaker_accuracy/own_head"] == 75.0


# -- the test set chooses nothing ------------------------------------------------------------------


def test_other_test_labels_change_neither_the_curve_nor_the_choice():
    """Labels moved on by one: what was right is wrong, and nothing else has changed."""
    train, test, moved = (speech(apart=a, seed=s) for a, s in [(1.0, 0), (20.0, 1), (20.0, 1)])
    moved.labels["speaker"].copy_((moved.labels["speaker"] + 1) % CLASSES)
    phones = moved.labels["phone"]
    phones.copy_(((phones + 1) % CLASSES).where(phones >= 0, -1))
    first, second = (probed(train, split, SPEAKER, PHONE) for split in (test, moved))
    assert first.curves == second.curves
    for name in ("speaker_accuracy", "phone_accuracy"):
        assert first.metrics[name] > 90
        assert first.metrics[name] + second.metrics[name] <= 100


def test_the_rate_is_chosen_on_validation_even_where_the_test_set_would_choose_another():
    train, rates = images(90, apart=1.0), (1e-4, 1e-1)
    curve = probed(train, train, CLASS, learning_rates=rates, steps=80).curves["module_2"]
    (chosen, best), (other, worst) = sorted(curve, key=lambda pair: -pair[1])
    assert best > worst, "the data must prefer one rate"
    of_rate = {
        rate: train_linear(
            train.inputs[:, 0],
            train.labels["class"],
            learning_rates=[rate],
            classes=CLASSES,
            steps=80,
            batch_size=16,
            standardised=False,
            stream=STREAM,
        )
        for rate in rates
    }
    # A test set labelled by the other rate's own probe: there, that rate is right every time.
    test = images(60, apart=1.0, seed=1)
    labels = of_rate[other].predict(test.inputs[:, 0])
    test.labels["class"].copy_(labels)
    hits = int((of_rate[chosen].predict(test.inputs[:, 0]) == labels).sum())
    found = probed(train, test, CLASS, learning_rates=rates, steps=80)
    assert found.metrics["accuracy"] == 100 * hits / 60 < 100


# -- choosing apart from the final fit -------------------------------------------------------------

KINDS = {
    "adam": AdamProbeSettings(learning_rates=(1e-2, 1e-1), steps=20, batch_size=16, neighbours=3),
    "logistic_regression": LogisticRegressionSettings(penalties=(1e-3, 1e-1, 10.0), neighbours=3),
}


def shared_options(settings, **changes):
    """Arguments of `choose` and of `probe`."""
    return {
        "train": speech(apart=1.0),
        "targets": (SPEAKER, PHONE),
        "settings": settings,
        "precision": Precision.FP32,
        "title": "gim",
        "progress": Silence(),
    } | changes


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_probes_with_chosen_hyperparameters_are_those_that_choose_for_themselves(settings):
    options = shared_options(settings)
    test = speech(11, apart=1.0, seed=1)
    at_once = probe(Reads(), test=test, **options)
    choices = choose(Reads(), **options)
    apart = probe(Reads(), test=test, chosen=choices, **options)
    assert curves_of(choices) == at_once.curves == apart.curves
    assert apart.metrics == at_once.metrics
    assert apart.predictions.packed() == at_once.predictions.packed()


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_probe_has_the_hyperparameters_that_it_is_given(settings):
    """Choices made for another learner, whose modules are swapped, give other accuracies."""
    options = shared_options(settings, train=images(90, apart=1.0), targets=(CLASS,))

    class Swapped(Reads):
        def features(self, inputs):
            first, second = super().features(inputs).values()
            return {"module_1": second, "module_2": first}

    test = images(60, apart=1.0, seed=1)
    swapped = choose(Swapped(), **options)
    found = probe(Reads(), test=test, chosen=swapped, **options)
    assert found.curves == curves_of(swapped) != curves_of(choose(Reads(), **options))


def test_the_top_module_alone_can_be_chosen_for():
    options = shared_options(KINDS["logistic_regression"])
    every, top = choose(Reads(), **options), choose(Reads(), top_only=True, **options)
    assert set(every) == {(t, m) for t in ("speaker", "phone") for m in ("module_1", "module_2")}
    assert set(top) == {("speaker", "module_2"), ("phone", "module_2")}
    assert all(top[place] == every[place] for place in top)


def test_only_validation_labels_and_fitting_labels_choose():
    """The items that validate are those that `validation_items` names, and fitting sees none."""
    train, settings = speech(40, windows=3), KINDS["logistic_regression"]
    held = validation_items(train, (SPEAKER, PHONE), settings=settings)
    for target in (SPEAKER, PHONE):
        asked = question(train, target, settings=settings)
        steps = STEPS if target.per_step else 1
        recordings = train.groups[asked.places // steps]
        assert set(recordings[asked.validating].tolist()) <= set(held.tolist())
        assert not set(recordings[~asked.validating].tolist()) & set(held.tolist())
    assert len(held) == 8


# -- predictions -----------------------------------------------------------------------------------


def test_predictions_give_every_accuracy_again():
    test = speech(11, apart=1.0, seed=1)
    found = probed(speech(apart=1.0), test, SPEAKER, PHONE)
    for name, percent in found.metrics.items():
        labels = found.predictions.labels["phone" if name.startswith("phone") else "speaker"]
        assert percent == 100 * (found.predictions.predicted[name] == labels).sum() / len(labels)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_predictions_name_the_item_of_every_label(batch_size):
    test = speech(11, seed=1, batch_size=batch_size)
    found = probed(speech(), test, SPEAKER, PHONE).predictions
    known = test.labels["phone"].flatten() >= 0
    assert found.items["speaker"].tolist() == test.groups.tolist()
    assert found.items["phone"].tolist() == test.groups.repeat_interleave(STEPS)[known].tolist()
    assert found.labels["phone"].tolist() == test.labels["phone"].flatten()[known].tolist()


def test_predictions_of_an_own_head_are_kept():
    learner = Reads(lambda inputs: inputs[:, :, :CLASSES])
    found = probed(images(), images(30, seed=1), CLASS, learner=learner).predictions
    assert found.predicted["accuracy/own_head"].tolist() == found.labels["class"].tolist()


# -- few labels ------------------------------------------------------------------------------------


def few(train, target, fraction, **changes):
    return question(train, target, settings=probe_settings(labelled_fraction=fraction, **changes))


@pytest.mark.parametrize(("fraction", "each"), [(0.1, 10), (0.01, 1), (0.001, 1), (1.0, 100)])
def test_a_share_of_the_labels_has_the_same_share_of_every_class(fraction, each):
    asked = few(images(300), CLASS, fraction)
    assert asked.labels.bincount().tolist() == [each] * CLASSES
    assert 0 < int(asked.validating.sum()) < len(asked.labels)


@pytest.mark.parametrize("target", [SPEAKER, PHONE], ids=lambda target: target.name)
def test_a_share_of_the_labels_is_of_whole_recordings(target):
    train = speech(60)
    asked = few(train, target, 0.1)
    steps = STEPS if target.per_step else 1
    recordings = train.groups[asked.places // steps].unique()
    assert asked.items.tolist() == recordings.tolist()
    assert len(recordings) == 6
    everything = question(train, target, settings=probe_settings())
    kept = torch.isin(train.groups[everything.places // steps], recordings)
    assert torch.equal(asked.places, everything.places[kept])


def test_the_share_of_the_labels_is_drawn_from_the_stream():
    first, again, seed = (
        few(images(300, stream=stream), CLASS, 0.1).items.tolist()
        for stream in (STREAM, STREAM, ("noise", 1))
    )
    assert first == again != seed


# -- augmented copies ------------------------------------------------------------------------------


class Moved(Given):
    """Copies are moved by a whole number: by 1 in the first pass, by 2 in the second, …"""

    def augmented_copies(self, number):
        for items in torch.arange(self.items).split(self.batch_size):
            here = torch.isin(self._groups, items)
            assert len(items) == int(here.sum()), "one example of each item"
            labels = {name: found[here] for name, found in self._labels.items()}
            yield items, Batch(inputs=self.inputs[here] + number, labels=labels)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_copies_are_read_with_their_labels_and_their_use(batch_size):
    inputs = images(60).inputs
    labels = torch.arange(60) % CLASSES
    train = Moved(inputs, {"class": labels}, batch_size=batch_size)
    asked = few(train, CLASS, 0.5)
    reader = Reader(Reads(), precision=Precision.FP32, title="t", progress=Silence())
    found = reader.copies_of(train, [asked], copies=2)[asked, "module_2"]
    kept = inputs[asked.items, 0]
    torch.testing.assert_close(found.features, torch.cat([kept + 1, kept + 2]))
    assert torch.equal(found.labels, labels[asked.items].repeat(2))
    assert torch.equal(found.validating, asked.validating.repeat(2))


def test_the_linear_probe_is_fitted_on_copies_and_the_others_on_the_examples():
    """Copies have wrong labels here, which spoil the linear probe and no other."""

    class Far(Moved):
        def augmented_copies(self, number):
            for items, batch in super().augmented_copies(number):
                labels = (batch.labels["class"] + 1) % CLASSES
                yield items, Batch(inputs=self.inputs[items], labels={"class": labels})

    train = Far(images(90).inputs, {"class": torch.arange(90) % CLASSES})
    metrics = probed(train, images(60, seed=1), CLASS, augment=1).metrics
    assert metrics["accuracy"] == 0
    assert metrics["knn_accuracy"] == metrics["ridge_accuracy"] == 100


def test_probes_of_steps_are_fitted_without_copies():
    plain, augmented = (
        probed(speech(), speech(11, seed=1), PHONE, augment=copies) for copies in (0, 2)
    )
    assert plain.metrics == augmented.metrics


# -- number formats --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "expected"), [(None, "bf16"), (Precision.FP32, "fp32"), (Precision.BF16, "bf16")]
)
def test_the_probe_may_read_features_in_a_precision_of_its_own(own, expected):
    """Training is in bf16."""
    seen = set()

    class Multiplies(Reads):
        def features(self, inputs):
            product = inputs @ torch.eye(DIM)
            seen.add({torch.bfloat16: "bf16", torch.float32: "fp32"}[product.dtype])
            return {"module_1": product, "module_2": inputs}

    options = shared_options(
        KINDS["adam"].model_copy(update={"precision": own}), precision=Precision.BF16
    )
    probe(Multiplies(), test=speech(11, seed=1), **options)
    assert seen == {expected}


def test_a_probe_that_runs_out_of_iterations_is_counted():
    settings = LogisticRegressionSettings(penalties=(1e-6,), iterations=1)
    options = shared_options(settings)
    metrics = probe(Reads(), test=speech(11, seed=1), **options).metrics
    assert metrics["phone_unconverged"] == metrics["speaker_unconverged"] == 2
    converged = probe(
        Reads(), test=speech(11, seed=1), **shared_options(KINDS["logistic_regression"])
    ).metrics
    assert not [name for name in converged if "unconverged" in name]
