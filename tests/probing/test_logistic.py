"""Logistic regression against scikit-learn, against the optimality condition, and on real data."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from gim_bench.probing import logistic
from gim_bench.probing.classifiers import Labelled, Scale, percent_correct
from gim_bench.probing.linear import best_of, refit_linear, validate_linear
from gim_bench.probing.logistic import logistic_regression
from gim_bench.settings.probing import LogisticRegressionSettings
from tests.probing.test_classifiers import labelled, unseen

PENALTIES = (1e-2, 1e-1, 1.0)


def points(number=80, *, dim=6, classes=4, dtype=torch.float64, seed=0):
    """Overlapping clouds in collinear dimensions of different scales, away from 0; their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(number) % classes
    centres = torch.randn(classes, dim, generator=draw, dtype=dtype)
    features = centres[labels] + torch.randn(number, dim, generator=draw, dtype=dtype)
    return features @ torch.randn(dim, dim, generator=draw, dtype=dtype) + 3, labels


def fitted(features, labels, *, penalties=PENALTIES, **changes):
    options = {
        "classes": int(labels.max()) + 1,
        "iterations": 5000,
        "tolerance": 1e-20,
        "standardised": False,
    }
    return logistic_regression(features, labels, penalties=penalties, **options | changes)


def objective(found, features, labels, *, penalty):
    weights, biases = found.probe.weights[0], found.probe.biases[0]
    loss = F.cross_entropy(found.probe.scale(features) @ weights.T + biases, labels)
    return float(loss + penalty / 2 * weights.square().sum())


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("number", "dim"), [(80, 6), (20, 40)], ids=["n > d", "n < d"])
def test_weights_and_probabilities_are_those_of_scikit_learn(standardised, classes, number, dim):
    """A mean loss with penalty λ is scikit-learn's summed loss with C = 1 / (n λ)."""
    features, labels = points(number, dim=dim, classes=classes)
    found = fitted(features, labels, standardised=standardised)
    assert found.converged.all()
    values = Scale.of(features)(features) if standardised else features
    queries, _ = points(30, dim=dim, classes=classes, seed=1)
    asked = Scale.of(features)(queries) if standardised else queries
    for r, penalty in enumerate(PENALTIES):
        # Two classes are a binomial regression to scikit-learn, with the penalty of one vector.
        strength = penalty / 2 if classes == 2 else penalty
        theirs = LogisticRegression(
            C=1 / (number * strength), tol=1e-10, max_iter=1000, solver="newton-cholesky"
        )
        theirs.fit(values.numpy(), labels.numpy())
        ours = found.probe.scores(queries)[:, r].softmax(dim=1)
        np.testing.assert_allclose(ours, theirs.predict_proba(asked.numpy()), atol=1e-4)
        weights = found.probe.weights[r]
        if classes == 2:
            weights = (weights[1] - weights[0])[None]
        np.testing.assert_allclose(weights, theirs.coef_, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("standardised", [False, True])
def test_the_gradient_of_the_penalised_loss_is_zero(standardised):
    features, labels = points()
    found = fitted(features, labels, standardised=standardised)
    values = found.probe.scale(features)
    for r, penalty in enumerate(PENALTIES):
        weights = found.probe.weights[r].clone().requires_grad_()
        biases = found.probe.biases[r].clone().requires_grad_()
        loss = F.cross_entropy(values @ weights.T + biases, labels)
        (loss + penalty / 2 * weights.square().sum()).backward()
        torch.testing.assert_close(weights.grad, torch.zeros_like(weights), atol=1e-8, rtol=0)
        torch.testing.assert_close(biases.grad, torch.zeros_like(biases), atol=1e-8, rtol=0)


def test_features_in_float32_give_the_same_probabilities():
    features, labels = points()
    exact = fitted(features, labels)
    rounded = fitted(features.float(), labels, tolerance=1e-9)
    assert rounded.converged.all()
    torch.testing.assert_close(
        rounded.probe.scores(features.float()).softmax(dim=2).double(),
        exact.probe.scores(features).softmax(dim=2),
        atol=1e-3,
        rtol=0,
    )


def test_a_penalty_is_per_example_so_that_examples_may_be_repeated():
    features, labels = points()
    once, twice = fitted(features, labels), fitted(features.repeat(2, 1), labels.repeat(2))
    torch.testing.assert_close(once.probe.weights, twice.probe.weights, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("standardised", [False, True])
def test_biases_are_not_penalised(standardised):
    """At a penalty without end, what is left are the frequencies of the classes."""
    features, labels = points(60, classes=3)
    labels[labels == 2] = 1
    labels[0] = 2
    (scores,) = fitted(features, labels, penalties=[1e9], standardised=standardised).probe.scores(
        features[:1]
    )
    expected = labels.bincount() / 60
    torch.testing.assert_close(scores.softmax(1)[0], expected.double(), atol=1e-6, rtol=0)


def test_standardised_features_may_be_scaled_and_shifted_without_effect():
    features, labels = points()
    moved = features * torch.tensor([1e-2, 1.0, 10.0, 100.0, 7.0, 3.0]).double() + 5
    plain, other = (fitted(x, labels, standardised=True) for x in (features, moved))
    torch.testing.assert_close(plain.probe.weights, other.probe.weights, atol=1e-5, rtol=1e-4)


def test_a_constant_dimension_has_no_weight():
    features, labels = points()
    features[:, 2] = 7.0
    found = fitted(features, labels, standardised=True)
    assert found.converged.all()
    torch.testing.assert_close(
        found.probe.weights[:, :, 2], torch.zeros(3, 4).double(), atol=1e-6, rtol=0
    )


def test_the_penalties_of_a_grid_do_not_change_each_other_in_any_order():
    features, labels = points()
    grid = (1e-2, 1.0, 1e-4, 1e-1)
    found = fitted(features, labels, penalties=grid)
    for r, penalty in enumerate(grid):
        alone = fitted(features, labels, penalties=[penalty])
        torch.testing.assert_close(
            found.probe.weights[r], alone.probe.weights[0], atol=1e-5, rtol=1e-5
        )


def test_equal_input_gives_equal_bits():
    features, labels = points(dtype=torch.float32)
    once, twice = (fitted(features.clone(), labels, tolerance=1e-6).probe for _ in range(2))
    assert torch.equal(once.weights, twice.weights)
    assert torch.equal(once.biases, twice.biases)


@pytest.mark.parametrize("penalty", [1e-1, 1e-4])
def test_a_regression_is_within_the_tolerance_of_the_minimum(penalty):
    """The tolerance is counted in nats."""
    features, labels = points(300, dim=20, classes=12)
    minimum = fitted(features, labels, penalties=[penalty])
    for tolerance in (1e-2, 1e-4):
        found = fitted(features, labels, penalties=[penalty], tolerance=tolerance)
        excess = objective(found, features, labels, penalty=penalty) - objective(
            minimum, features, labels, penalty=penalty
        )
        assert -1e-12 < excess <= tolerance


def test_directions_in_which_features_are_constant_do_not_slow_a_regression_down():
    """Such directions would be subnormal numbers after the rotation to principal axes."""
    features, labels = points(200, dim=8, classes=5, dtype=torch.float32)
    dead = torch.cat([features, torch.full((200, 4), 1e-30)], dim=1)
    plain, other = (fitted(x, labels, tolerance=1e-6) for x in (features, dead))
    assert other.iterations.tolist() == plain.iterations.tolist()
    assert float(other.probe.weights[:, :, 8:].abs().max()) < 1e-6


def test_the_first_preconditioner_serves_where_blocks_would_be_too_large(monkeypatch):
    monkeypatch.setattr(logistic, "BLOCKS", 0)
    features, labels = points()
    found = fitted(features, labels, penalties=[1e-2])
    monkeypatch.undo()
    expected = fitted(features, labels, penalties=[1e-2])
    assert found.converged.all()
    assert found.iterations > expected.iterations
    torch.testing.assert_close(found.probe.weights, expected.probe.weights, atol=1e-6, rtol=1e-5)


def test_a_weak_penalty_is_solved_where_features_are_rarely_active():
    """Standardised, such features are large in a few examples, where first steps overshoot."""
    draw = torch.Generator().manual_seed(2)
    number, dim, classes = 3000, 32, 40
    frequencies = torch.arange(1, classes + 1, dtype=torch.float64) ** -0.5
    labels = torch.multinomial(frequencies, number, replacement=True, generator=draw)
    centres = 0.3 * torch.randn(classes, dim, generator=draw)
    features = F.relu(centres[labels] + torch.randn(number, dim, generator=draw))
    features = F.relu(features - torch.linspace(0, 4, dim))
    options = {"iterations": 1000, "tolerance": 1e-4, "standardised": True, "classes": classes}
    alone, among_others = (
        fitted(features, labels, penalties=penalties, **options)
        for penalties in ([1e-7], [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2])
    )
    assert alone.converged.all()
    losses = [objective(found, features, labels, penalty=1e-7) for found in (alone, among_others)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_regression_that_runs_out_of_iterations_says_so():
    """Strong penalties converge at once, the weakest does not."""
    features, labels = points()
    found = fitted(features, labels, penalties=(1e3, 1e-6), iterations=12)
    assert found.converged.tolist() == [True, False]
    assert found.iterations.tolist()[1] == 12


def test_a_class_without_examples_is_never_predicted_and_keeps_no_regression_from_converging():
    features, labels = points()
    found = fitted(features, labels, classes=6, tolerance=1e-3)
    assert found.converged.all()
    assert int(found.probe.scores(features).argmax(dim=2).max()) < 4


# -- as a probe ------------------------------------------------------------------------------------


def regression(**changes):
    return LogisticRegressionSettings(**changes)


def test_the_penalty_is_chosen_on_validation_and_the_probe_is_refitted_on_all():
    """The whole protocol by scikit-learn."""
    given = labelled(apart=1.0, dim=40)
    grid = (1.0, 1e-4, 1e-1)
    settings = regression(penalties=grid, tolerance=1e-6)

    def theirs(chosen, penalty):
        scale = Scale.of(given.features[chosen])
        model = LogisticRegression(C=1 / (len(chosen) * penalty), tol=1e-9, max_iter=10_000)
        model.fit(scale(given.features[chosen]).numpy(), given.labels[chosen].numpy())
        return lambda x: torch.from_numpy(model.predict(scale(x).numpy()))

    wanted = given.labels[given.validating]
    percents = [
        100 * (theirs(given.fitting, p)(given.features[given.validating]) == wanted).double().mean()
        for p in grid
    ]
    tried = validate_linear(given, settings=settings, stream=("photos", 0))
    assert [trial.hyperparameter for trial in tried] == list(grid)
    assert [trial.accuracy for trial in tried] == pytest.approx([float(p) for p in percents])
    best = best_of(tried)
    assert best.accuracy == pytest.approx(float(max(percents)))
    fitted_on_all, converged = refit_linear(given, best, settings=settings, stream=("photos", 0))
    queries, _ = unseen(dim=40)
    assert converged
    expected = theirs(torch.arange(len(given.labels)), best.hyperparameter)(queries)
    assert torch.equal(fitted_on_all.predict(queries), expected)


@pytest.mark.parametrize("width", [32, 128], ids=["a narrow layer", "a wide layer"])
def test_twice_the_iterations_at_a_tenth_of_the_tolerance_move_no_accuracy(width):
    """Scikit-learn's digits, through an untrained layer whose outputs are nearly collinear."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.data).float() / 16
    layer = torch.randn(64, width, generator=torch.Generator().manual_seed(0)) / 8
    features = (pixels @ layer + 0.5).relu()
    labels = torch.from_numpy(digits.target)
    half = len(labels) // 2
    task = Labelled(
        features=features[:half],
        labels=labels[:half],
        fitting=torch.arange(half // 5, half),
        validating=torch.arange(half // 5),
        classes=10,
    )
    default = regression()
    longer = regression(iterations=2 * default.iterations, tolerance=default.tolerance / 10)
    accuracies = []
    for settings in (default, longer):
        best = best_of(validate_linear(task, settings=settings, stream=("digits", 0)))
        probe, converged = refit_linear(task, best, settings=settings, stream=("digits", 0))
        assert converged
        accuracies.append(percent_correct(probe.predict(features[half:]), labels[half:]))
    assert accuracies[0] > 85
    assert abs(accuracies[0] - accuracies[1]) <= 0.5


def test_the_default_grid_has_two_penalties_a_decade():
    grid = LogisticRegressionSettings().penalties
    steps = np.diff(np.log10(grid))
    assert math.isclose(grid[0], 1e-5)
    assert grid[-1] == 1
    assert steps.max() < 0.53
