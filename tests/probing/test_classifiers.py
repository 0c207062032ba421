"""Classifiers against textbook versions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gim_bench import seeding
from gim_bench.probing.adam import train_linear
from gim_bench.probing.classifiers import (
    VOTE_TEMPERATURE,
    Labelled,
    Scale,
    best_penalty,
    fit_neighbours,
    fit_ridge,
    percent_correct,
    ridge,
)
from gim_bench.probing.linear import best_of, refit_linear, validate_linear
from gim_bench.settings.probing import AdamProbeSettings

STREAM = ("photos", 0)
CLASSES = 3


def clouds(images, *, apart, seed=0, dim=5):
    """Three Gaussian clouds of deviation 1 whose centres are `apart` from 0, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % CLASSES
    centres = apart * torch.eye(CLASSES, dim)
    return torch.randn(images, dim, generator=draw) + centres[labels], labels


def labelled(*, apart=1.5, images=90, dim=5):
    """Clouds of which every fifth point, at random, is for validation."""
    features, labels = clouds(images, apart=apart, dim=dim)
    order = torch.randperm(images, generator=seeding.generator("validation", *STREAM))
    return Labelled(
        features=features,
        labels=labels,
        fitting=order[images // 5 :],
        validating=order[: images // 5],
        classes=CLASSES,
    )


def unseen(*, apart=1.5, dim=5):
    """Other points of the same clouds, to test on."""
    return clouds(60, apart=apart, seed=1, dim=dim)


def probe_settings(**changes):
    return AdamProbeSettings(
        **{"learning_rates": (1e-3, 1e-2, 1e-1), "steps": 20, "batch_size": 16} | changes
    )


def fit_linear(task, *, settings, stream):
    """The probe that is best on validation, refitted on all labels, and its curve."""
    tried = validate_linear(task, settings=settings, stream=stream)
    fitted, converged = refit_linear(task, best_of(tried), settings=settings, stream=stream)
    assert converged
    return fitted, [[trial.hyperparameter, trial.accuracy] for trial in tried]


# -- linear ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardised", [False, True])
def test_weight_decay_is_that_of_adamw_and_each_rate_has_its_own(standardised):
    """Against torch's AdamW on a linear layer, one rate and decay after the other."""
    features, labels = clouds(60, apart=1.5)
    rates, decays = [1e-2, 1e-2, 1e-1], [0.5, 0.0, 2.0]
    settings = {"classes": CLASSES, "steps": 25, "batch_size": 20, "stream": STREAM}
    together = train_linear(
        features, labels, learning_rates=rates, weight_decays=decays,
        standardised=standardised, **settings,
    )  # fmt: skip
    inputs = Scale.of(features)(features) if standardised else features
    for r, (rate, decay) in enumerate(zip(rates, decays, strict=True)):
        layer = torch.nn.Linear(inputs.shape[1], CLASSES)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        optimiser = torch.optim.AdamW(layer.parameters(), lr=rate, weight_decay=decay)
        draw = seeding.generator("probe", *STREAM)
        batches = [b for _ in range(9) for b in torch.randperm(60, generator=draw).split(20)]
        for chosen in batches[:25]:
            optimiser.zero_grad()
            F.cross_entropy(layer(inputs[chosen]), labels[chosen]).backward()
            optimiser.step()
        torch.testing.assert_close(together.weights[r], layer.weight, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(together.biases[r], layer.bias, atol=1e-4, rtol=1e-3)


def textbook_linear(features, labels, *, rate, steps, batch_size):
    """torch.nn.Linear, torch.optim.Adam and cross_entropy, for one learning rate alone."""
    linear = torch.nn.Linear(features.shape[1], CLASSES, dtype=features.dtype)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    adam = torch.optim.Adam(linear.parameters(), lr=rate)
    draw = seeding.generator("probe", *STREAM)
    done = 0
    while True:
        for chosen in torch.randperm(len(features), generator=draw).split(batch_size):
            if done == steps:
                return linear
            adam.zero_grad()
            F.cross_entropy(linear(features[chosen]), labels[chosen]).backward()
            adam.step()
            done += 1


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-9)], ids=str
)
def test_every_rate_is_trained_as_if_alone(standardised, dtype, tolerance):
    """Seven images in the last batch of 16: the mean is over the batch as it is."""
    features, labels = clouds(55, apart=1.0)
    features = 3 * features.to(dtype) + 2
    rates = [1e-4, 1e-3, 3e-2, 1e-1]
    how = {"steps": 30, "batch_size": 16}
    probes = train_linear(
        features,
        labels,
        learning_rates=rates,
        classes=CLASSES,
        standardised=standardised,
        stream=STREAM,
        **how,
    )
    queries = clouds(9, apart=1.0, seed=2)[0].to(dtype)
    values, asked = features, queries
    if standardised:
        mean, std = features.mean(dim=0), features.std(dim=0)
        values, asked = (features - mean) / std, (queries - mean) / std
    for r, rate in enumerate(rates):
        linear = textbook_linear(values, labels, rate=rate, **how)
        for found, expected in [
            (probes.weights[r], linear.weight),
            (probes.biases[r], linear.bias),
            (probes.scores(queries)[:, r], linear(asked)),
        ]:
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_standardised_features_may_be_scaled_and_shifted_without_effect():
    features, labels = clouds(60, apart=1.0)
    moved = features * torch.tensor([1e-3, 1.0, 10.0, 100.0, 7.0]) + 5
    plain, other = (
        train_linear(
            x,
            labels,
            learning_rates=[1e-2],
            classes=CLASSES,
            steps=12,
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
    scale = Scale.of(features)
    mean, std = scale.mean, scale.std
    values = (features - mean) / std
    torch.testing.assert_close(values.mean(dim=0), torch.zeros(5), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        values.std(dim=0), torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]), rtol=0, atol=1e-5
    )
    assert std[3] == 1.0


# case 10
def test_the_statistics_of_one_example_are_finite_and_raise_no_warning():
    """Warnings are errors in tests, and std() of one value warns."""
    scale = Scale.of(torch.tensor([[3.0, -2.0]]))
    assert scale(torch.tensor([[3.0, -1.0]])).tolist() == [[0.0, 1.0]]


def accuracy_of(classifier, features, labels):
    return percent_correct(classifier.predict(features), labels)


def test_separable_data_is_classified_without_an_error():
    probe, curve = fit_linear(labelled(apart=20.0), settings=probe_settings(), stream=STREAM)
    assert accuracy_of(probe, *unseen(apart=20.0)) == 100.0
    assert [rate for rate, _ in curve] == [1e-3, 1e-2, 1e-1]
    assert curve[-1] == [1e-1, 100.0]


def test_the_linear_probe_is_that_of_the_textbook_at_the_rate_that_validates_best():
    """The whole protocol by hand: fit on 80 %, choose on 20 %, refit on all."""
    given = labelled(apart=1.0)
    how = {"steps": 20, "batch_size": 16}
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

    probe, curve = fit_linear(given, settings=probe_settings(learning_rates=rates), stream=STREAM)
    points, _ = unseen()
    torch.testing.assert_close(probe.scores(points)[:, 0], refitted(points), rtol=1e-3, atol=1e-3)
    assert torch.equal(probe.predict(points), refitted(points).argmax(1))
    assert [percent for _, percent in curve] == pytest.approx([100 * c / 18 for c, _ in validated])


def test_equal_validation_accuracies_are_settled_by_the_validation_loss():
    """All rates separate the clouds; the largest is the surest of it, and scores the same."""
    given = labelled(apart=20.0)
    settings = probe_settings(learning_rates=(1e-3, 1e-2), steps=40)
    probe, curve = fit_linear(given, settings=settings, stream=STREAM)
    assert [percent for _, percent in curve] == [100.0, 100.0]
    fast = textbook_linear(given.features, given.labels, rate=1e-2, steps=40, batch_size=16)
    slow = textbook_linear(given.features, given.labels, rate=1e-3, steps=40, batch_size=16)
    # Points on which the two disagree, labelled by the fast one.
    draw = torch.Generator().manual_seed(5)
    points = 5 * torch.randn(3000, 5, generator=draw)
    points = points[fast(points).argmax(1) != slow(points).argmax(1)]
    assert len(points) > 5
    assert accuracy_of(probe, points, fast(points).argmax(1)) > 90.0


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
    found = ridge(features, labels, penalties=penalties, classes=CLASSES)
    for fitted, penalty in zip(found, penalties, strict=True):
        expected = textbook_ridge(features, labels, queries, penalty=penalty)
        torch.testing.assert_close(fitted.scores(queries), expected, rtol=1e-4, atol=1e-5)


def test_the_ridge_penalty_is_chosen_on_validation_and_refitted_on_all():
    given = labelled(apart=1.0, dim=40)
    penalties = (10.0, 1e-4, 1.0)
    fit, labels = given.features[given.fitting], given.labels[given.fitting]
    queries, wanted = given.features[given.validating], given.labels[given.validating]
    validated = [
        percent_correct(textbook_ridge(fit, labels, queries, penalty=p).argmax(1), wanted)
        for p in penalties
    ]
    best = penalties[validated.index(max(validated))]
    assert best == 1e-4, "neither the first nor the last"
    points, _ = unseen(apart=1.0, dim=40)
    scores = textbook_ridge(given.features, given.labels, points, penalty=best)
    found = fit_ridge(given, penalty=best_penalty(given, penalties=penalties))
    torch.testing.assert_close(found.scores(points), scores, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.predict(points), scores.argmax(1))


# -- nearest neighbours ----------------------------------------------------------------------------


def textbook_knn(given, points, *, neighbours):
    """One point, one neighbour at a time."""
    mean, std = given.features.mean(dim=0), given.features.std(dim=0)
    known = [(x - mean) / std for x in given.features]
    found = []
    for point in points:
        q = (point - mean) / std
        cosines = [float(q @ x / (q.norm() * x.norm())) for x in known]
        nearest = sorted(range(len(known)), key=lambda i: -cosines[i])[:neighbours]
        votes = [0.0] * CLASSES
        for i in nearest:
            votes[given.labels[i]] += np.exp(cosines[i] / VOTE_TEMPERATURE)
        found.append(votes.index(max(votes)))
    return found


@pytest.mark.parametrize("neighbours", [1, 5, 1000], ids=["one", "five", "more than there are"])
def test_nearest_neighbours_vote_as_in_a_naive_loop(neighbours):
    given = labelled(apart=0.8)
    points, labels = unseen(apart=0.8)
    expected = textbook_knn(given, points, neighbours=neighbours)
    assert 30 < percent_correct(torch.tensor(expected), labels) < 100
    assert fit_neighbours(given, neighbours=neighbours).predict(points).tolist() == expected


@pytest.mark.parametrize("classifier", ["linear", "ridge", "neighbours"])
def test_what_is_predicted_for_one_example_does_not_depend_on_the_others(classifier):
    """The test set comes in batches, whose size must not matter."""
    given = labelled(apart=1.0)
    fitted = {
        "linear": lambda: fit_linear(
            given, settings=probe_settings(standardise=True), stream=STREAM
        )[0],
        "ridge": lambda: fit_ridge(given, penalty=1e-2),
        "neighbours": lambda: fit_neighbours(given, neighbours=5),
    }[classifier]()
    points, _ = unseen(apart=1.0)
    one_by_one = torch.cat([fitted.predict(point[None]) for point in points])
    assert torch.equal(one_by_one, fitted.predict(points))


# -- counting --------------------------------------------------------------------------------------


def test_percent_correct_by_hand():
    assert percent_correct(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])) == pytest.approx(
        200 / 3
    )
    assert percent_correct(torch.tensor([4]), torch.tensor([4])) == 100.0
    assert percent_correct(torch.tensor([1, 0]), torch.tensor([0, 1])) == 0.0
