"""Probes against textbook versions, and the test set's part in them: none before the end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gim_bench import seeding
from gim_bench.config import AugmentationSettings, Precision, ProbeSettings
from gim_bench.contract import Examples, Silence
from gim_bench.datasets.batches import ImageBatches
from gim_bench.probe import (
    VOTE_TEMPERATURE,
    Extracted,
    _statistics,
    _Task,
    extract,
    knn_accuracy,
    linear_accuracy,
    percent_correct,
    probe,
    ridge,
    ridge_accuracy,
    train_linear,
    validation_split,
)
from tests.tiny_suite import CPU, Scripted

STREAM = ("photos", 0)
CLASSES = 3


def clouds(images, *, apart, seed=0, dim=5):
    """Three Gaussian clouds of deviation 1 whose centres are `apart` from 0, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % CLASSES
    centres = apart * torch.eye(CLASSES, dim)
    return torch.randn(images, dim, generator=draw) + centres[labels], labels


def task(*, apart=1.5, images=90, dim=5):
    features, labels = clouds(images, apart=apart, dim=dim)
    test_features, test_labels = clouds(60, apart=apart, seed=1, dim=dim)
    fitting, validating = validation_split(images, fraction=0.2, stream=STREAM)
    return _Task(
        features=features,
        labels=labels,
        fitting=fitting,
        validating=validating,
        test_features=test_features,
        test_labels=test_labels,
        classes=CLASSES,
    )


def probe_settings(**changes):
    return ProbeSettings(
        **{"learning_rates": (1e-3, 1e-2, 1e-1), "epochs": 5, "batch_size": 16} | changes
    )


# -- linear ----------------------------------------------------------------------------------------


def textbook_linear(features, labels, *, rate, epochs, batch_size):
    """torch.nn.Linear, torch.optim.Adam and cross_entropy, for one learning rate alone."""
    linear = torch.nn.Linear(features.shape[1], CLASSES)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    adam = torch.optim.Adam(linear.parameters(), lr=rate)
    draw = seeding.generator("probe", *STREAM)
    for _ in range(epochs):
        for chosen in torch.randperm(len(features), generator=draw).split(batch_size):
            adam.zero_grad()
            F.cross_entropy(linear(features[chosen]), labels[chosen]).backward()
            adam.step()
    return linear


@pytest.mark.parametrize("standardised", [True, False])
def test_every_rate_is_trained_as_if_alone(standardised):
    """Seven images in the last batch of 16: the mean is over the batch as it is."""
    features, labels = clouds(55, apart=1.0)
    features = 3 * features + 2
    rates = [1e-3, 3e-2, 1e-1]
    how = {"epochs": 4, "batch_size": 16}
    probes = train_linear(
        features,
        labels,
        learning_rates=rates,
        classes=CLASSES,
        standardised=standardised,
        stream=STREAM,
        **how,
    )
    queries, _ = clouds(9, apart=1.0, seed=2)
    values, asked = features, queries
    if standardised:
        mean, std = features.mean(dim=0), features.std(dim=0)
        values, asked = (features - mean) / std, (queries - mean) / std
    for r, rate in enumerate(rates):
        linear = textbook_linear(values, labels, rate=rate, **how)
        torch.testing.assert_close(probes.weights[:, r], linear.weight.T, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(probes.biases[r], linear.bias, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            probes.scores(queries)[:, r], linear(asked), rtol=1e-3, atol=1e-3
        )


def test_standardised_features_may_be_scaled_and_shifted_without_effect():
    features, labels = clouds(60, apart=1.0)
    moved = features * torch.tensor([1e-3, 1.0, 10.0, 100.0, 7.0]) + 5
    plain, other = (
        train_linear(
            x,
            labels,
            learning_rates=[1e-2],
            classes=CLASSES,
            epochs=3,
            batch_size=16,
            standardised=True,
            stream=STREAM,
        )
        for x in (features, moved)
    )
    torch.testing.assert_close(plain.weights, other.weights, rtol=1e-2, atol=1e-3)


def test_statistics_are_mean_0_and_deviation_1_and_leave_constant_dimensions_alone():
    features, _ = clouds(50, apart=2.0)
    features[:, 3] = 7.0
    mean, std = _statistics(features)
    values = (features - mean) / std
    torch.testing.assert_close(values.mean(dim=0), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        values.std(dim=0), torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]), rtol=0, atol=1e-5
    )
    assert std[3] == 1.0


def test_separable_data_is_classified_without_an_error():
    accuracy, curve = linear_accuracy(task(apart=20.0), settings=probe_settings(), stream=STREAM)
    assert accuracy == 100.0
    assert [rate for rate, _ in curve] == [1e-3, 1e-2, 1e-1]
    assert curve[-1] == [1e-1, 100.0]


def test_the_linear_accuracy_is_that_of_the_textbook_at_the_rate_that_validates_best():
    """The whole protocol by hand: fit on 80 %, choose on 20 %, refit on all, test once."""
    given = task(apart=1.0)
    how = {"epochs": 5, "batch_size": 16}
    rates = (1e-4, 1e-2, 3e-1)
    validated = []
    for rate in rates:
        linear = textbook_linear(
            given.features[given.fitting], given.labels[given.fitting], rate=rate, **how
        )
        labels = given.labels[given.validating]
        scores = linear(given.features[given.validating])
        correct = int((scores.argmax(1) == labels).sum())
        validated.append((correct, -F.cross_entropy(scores, labels).item()))
    best = rates[validated.index(max(validated))]
    refitted = textbook_linear(given.features, given.labels, rate=best, **how)
    hits = (refitted(given.test_features).argmax(1) == given.test_labels).sum().item()

    accuracy, curve = linear_accuracy(
        given, settings=probe_settings(learning_rates=rates), stream=STREAM
    )
    assert accuracy == pytest.approx(100 * hits / 60)
    assert [percent for _, percent in curve] == pytest.approx([100 * c / 18 for c, _ in validated])


def test_the_rate_is_chosen_on_validation_even_where_the_test_set_would_choose_another():
    given = task(apart=1.0)
    rates = (1e-4, 1e-1)
    trained = {}
    for rate in rates:
        settings = probe_settings(learning_rates=(rate,), epochs=20)
        _, ((_, validated),) = linear_accuracy(given, settings=settings, stream=STREAM)
        trained[rate] = validated
    chosen = max(rates, key=lambda rate: trained[rate])
    (other,) = set(rates) - {chosen}
    assert trained[chosen] > trained[other], "the data must prefer one rate"
    # A test set labelled by the other rate's own probe: there, that rate is right every time.
    linear = textbook_linear(given.features, given.labels, rate=other, epochs=20, batch_size=16)
    given = replace(given, test_labels=linear(given.test_features).argmax(1))
    settings = probe_settings(learning_rates=rates, epochs=20)
    accuracy, _ = linear_accuracy(given, settings=settings, stream=STREAM)
    refitted = textbook_linear(given.features, given.labels, rate=chosen, epochs=20, batch_size=16)
    expected = percent_correct(refitted(given.test_features).argmax(1), given.test_labels)
    assert accuracy == expected < 100.0


def test_other_test_labels_change_neither_the_curve_nor_the_choice():
    given = task()
    shuffled = replace(given, test_labels=(given.test_labels + 1) % CLASSES)
    settings = probe_settings()
    accuracy, curve = linear_accuracy(given, settings=settings, stream=STREAM)
    other_accuracy, other_curve = linear_accuracy(shuffled, settings=settings, stream=STREAM)
    assert curve == other_curve
    assert accuracy != other_accuracy


def test_equal_validation_accuracies_are_settled_by_the_validation_loss():
    """All rates separate the clouds; the largest is the surest of it, and scores the same."""
    given = task(apart=20.0)
    settings = probe_settings(learning_rates=(1e-3, 1e-2), epochs=10)
    _, curve = linear_accuracy(given, settings=settings, stream=STREAM)
    assert [percent for _, percent in curve] == [100.0, 100.0]
    fast = textbook_linear(given.features, given.labels, rate=1e-2, epochs=10, batch_size=16)
    slow = textbook_linear(given.features, given.labels, rate=1e-3, epochs=10, batch_size=16)
    # Queries on which the two disagree, labelled by the fast one.
    draw = torch.Generator().manual_seed(5)
    queries = 5 * torch.randn(3000, 5, generator=draw)
    disagreed = fast(queries).argmax(1) != slow(queries).argmax(1)
    queries = queries[disagreed]
    assert len(queries) > 5
    given = replace(given, test_features=queries, test_labels=fast(queries).argmax(1))
    accuracy, _ = linear_accuracy(given, settings=settings, stream=STREAM)
    assert accuracy > 90.0


# -- ridge -----------------------------------------------------------------------------------------


def textbook_ridge(features, labels, queries, *, penalty):
    """The normal equations with an unpenalised intercept, solved directly in float64."""
    mean, std = features.mean(dim=0), features.std(dim=0)
    x = ((features - mean) / std).double()
    y = F.one_hot(labels, CLASSES).double()
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    design = torch.cat([x, ones], dim=1)
    penalties = torch.diag(torch.tensor([penalty] * x.shape[1] + [0.0], dtype=torch.float64))
    weights = torch.linalg.solve(design.T @ design / len(x) + penalties, design.T @ y / len(x))
    asked = ((queries - mean) / std).double()
    return torch.cat([asked, torch.ones(len(asked), 1, dtype=torch.float64)], dim=1) @ weights


@pytest.mark.parametrize("images", [60, 4], ids=["many images", "fewer images than dimensions"])
def test_ridge_solves_the_normal_equations(images):
    features, labels = clouds(images, apart=1.0)
    queries, _ = clouds(7, apart=1.0, seed=3)
    penalties = [1e-3, 0.1, 10.0]
    found = ridge(features, labels, queries, penalties=penalties, classes=CLASSES)
    for scores, penalty in zip(found, penalties, strict=True):
        expected = textbook_ridge(features, labels, queries, penalty=penalty)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_the_ridge_penalty_is_chosen_on_validation_and_refitted_on_all():
    given = task(apart=1.0, dim=40)
    penalties = (10.0, 1e-4, 1.0)
    fit, labels = given.features[given.fitting], given.labels[given.fitting]
    queries, wanted = given.features[given.validating], given.labels[given.validating]
    validated = [
        percent_correct(textbook_ridge(fit, labels, queries, penalty=p).argmax(1), wanted)
        for p in penalties
    ]
    best = penalties[validated.index(max(validated))]
    assert best == 1e-4, "neither the first nor the last"
    scores = textbook_ridge(given.features, given.labels, given.test_features, penalty=best)
    expected = percent_correct(scores.argmax(1), given.test_labels)
    assert ridge_accuracy(given, penalties=penalties) == expected


# -- nearest neighbours ----------------------------------------------------------------------------


def textbook_knn(given, *, neighbours):
    """One query, one neighbour at a time."""
    mean, std = given.features.mean(dim=0), given.features.std(dim=0)
    known = [(x - mean) / std for x in given.features]
    hits = 0
    for query, wanted in zip(given.test_features, given.test_labels, strict=True):
        q = (query - mean) / std
        cosines = [float(q @ x / (q.norm() * x.norm())) for x in known]
        nearest = sorted(range(len(known)), key=lambda i: -cosines[i])[:neighbours]
        votes = [0.0] * CLASSES
        for i in nearest:
            votes[given.labels[i]] += np.exp(cosines[i] / VOTE_TEMPERATURE)
        hits += votes.index(max(votes)) == wanted
    return 100 * hits / len(given.test_labels)


@pytest.mark.parametrize("neighbours", [1, 5, 1000], ids=["one", "five", "more than there are"])
def test_nearest_neighbours_vote_as_in_a_naive_loop(neighbours):
    given = task(apart=0.8)
    expected = textbook_knn(given, neighbours=neighbours)
    assert 30 < expected < 100
    assert knn_accuracy(given, neighbours=neighbours) == pytest.approx(expected)


# -- counting and splitting ------------------------------------------------------------------------


def test_percent_correct_by_hand():
    assert percent_correct(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])) == pytest.approx(
        200 / 3
    )
    assert percent_correct(torch.tensor([4]), torch.tensor([4])) == 100.0
    assert percent_correct(torch.tensor([1, 0]), torch.tensor([0, 1])) == 0.0


@pytest.mark.parametrize(
    ("images", "fraction", "held_out"), [(100, 0.2, 20), (7, 0.2, 1), (33, 0.5, 16), (2, 0.1, 1)]
)
def test_validation_and_fitting_share_nothing_and_leave_nothing_out(images, fraction, held_out):
    fitting, validating = validation_split(images, fraction=fraction, stream=STREAM)
    assert len(validating) == held_out
    assert sorted([*fitting.tolist(), *validating.tolist()]) == list(range(images))


def test_the_validation_images_depend_on_dataset_and_seed_alone():
    """Nothing of the method goes in, so all methods are chosen on the same images."""
    (_, first), (_, again), (_, seed), (_, dataset) = (
        validation_split(100, fraction=0.2, stream=stream)
        for stream in (("photos", 0), ("photos", 0), ("photos", 1), ("stl10", 0))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, seed)
    assert not torch.equal(first, dataset)


# -- all of it -------------------------------------------------------------------------------------


def extracted(*, apart, images, seed=0, predictions=None):
    features, labels = clouds(images, apart=apart, seed=seed)
    noise, _ = clouds(images, apart=0.0, seed=seed + 10)
    return Extracted(
        features={"module_1": noise, "module_2": features}, labels=labels, predictions=predictions
    )


def probed(train, test, **changes):
    return probe(
        train,
        test,
        settings=probe_settings(**changes),
        classes=CLASSES,
        stream=STREAM,
        title="probes",
        progress=Silence(),
    )


def test_every_module_is_probed_and_the_bare_names_are_the_top_ones():
    found = probed(extracted(apart=20.0, images=90), extracted(apart=20.0, images=60, seed=1))
    for name in ("accuracy", "ridge_accuracy", "knn_accuracy"):
        assert found.metrics[name] == found.metrics[f"{name}/module_2"] == 100.0
        assert found.metrics[f"{name}/module_1"] < 70.0
    assert set(found.curves) == {"module_1", "module_2"}


def test_own_head_is_counted_only_where_there_is_one():
    train, test = extracted(apart=2.0, images=60), extracted(apart=2.0, images=30, seed=1)
    assert "accuracy/own_head" not in probed(train, test).metrics
    predictions = test.labels.clone()
    predictions[:6] = (predictions[:6] + 1) % CLASSES
    own = Extracted(features=test.features, labels=test.labels, predictions=predictions)
    assert probed(train, own).metrics["accuracy/own_head"] == 80.0


def test_the_same_features_give_the_same_numbers_every_time():
    train, test = extracted(apart=1.0, images=60), extracted(apart=1.0, images=30, seed=1)
    first, second = probed(train, test), probed(train, test)
    assert first.metrics == second.metrics
    assert first.curves == second.curves


@pytest.fixture
def seven_images():
    pixels = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1) * np.ones((1, 1, 4, 4), np.uint8)
    return ImageBatches(
        Examples(images=pixels, labels=np.arange(7) % CLASSES),
        augmentation=AugmentationSettings(crop=4, mean=(0.0,), std=(1 / 255,)),
        batch_size=3,
        stream=STREAM,
        device=CPU,
    )


def test_all_images_are_extracted_in_order_when_the_batch_size_does_not_divide(seven_images):
    learner = Scripted()
    learner.predict = lambda inputs: F.one_hot(inputs[:, 0, 0, 0].round().long() % CLASSES).float()
    found = extract(learner, seven_images, precision=Precision.FP32, title="t", progress=Silence())
    values = found.features["module_1"][:, 0]
    torch.testing.assert_close(values, torch.arange(7.0))
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert found.predictions.tolist() == found.labels.tolist()


def test_a_learner_without_a_head_predicts_nothing(seven_images):
    found = extract(
        Scripted(), seven_images, precision=Precision.FP32, title="t", progress=Silence()
    )
    assert found.predictions is None


def test_features_are_kept_in_full_precision(seven_images):
    learner = Scripted()
    learner.features = lambda inputs: {"module_1": inputs.flatten(1).bfloat16()}
    found = extract(learner, seven_images, precision=Precision.BF16, title="t", progress=Silence())
    assert found.features["module_1"].dtype == torch.float32
