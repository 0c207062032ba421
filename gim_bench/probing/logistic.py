"""Multinomial logistic regression by L-BFGS, for all penalties of a grid together.

The objective is the mean cross-entropy in nats plus penalty / 2 · ‖W‖²; biases are not penalised.
Features are centred and rotated to their principal axes. There the bound of the Hessian is
diagonal, and its inverse is the first guess of L-BFGS: tens of iterations suffice.

Letters: n = labels, d = feature dimensions, c = classes, r = penalties, k = d + 1 coordinates, of
which the last belongs to the biases.

Source: Böhning 1992 (bound of the Hessian); Nocedal and Wright 2006, algorithm 7.4 (L-BFGS).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gim_bench.probing.classifiers import LinearProbe, Scale

MEMORY = 12  # pairs of steps and changes of the gradient
# Elements of a matrix of scores. Penalties that exceed the limit together are solved one group
# after the other, from the strongest on, each group from the weights of the group before.
TOGETHER = {"cpu": 2**20, "cuda": 2**27}
# A line search ends where the slope is in this range, as a share of the slope at its start.
STEEPEST, OVERSHOT = -0.7, 0.2
SEARCHES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """Logistic regressions, one for each penalty, and whether each reached the tolerance."""

    probe: LinearProbe
    converged: Bool[Tensor, "r"]
    iterations: Int[Tensor, "r"]


def logistic_regression(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    *,
    penalties: Sequence[float],
    classes: int,
    iterations: int,
    tolerance: float,
    standardised: bool,
) -> Regression:
    """Logistic regressions with these penalties.

    Scores have the precision of the features; weights and sums are in float64. A regression has
    converged where the norm of its gradient is at most `tolerance`. The norm is measured in units
    of the bound of the Hessian, so that the features' scale does not matter: its square is twice
    the decrease that the bound promises, in nats.
    """
    scale = Scale.of(features) if standardised else Scale.centred(features)
    x = scale(features).double()
    variances, axes = torch.linalg.eigh(x.T @ x / len(x))
    inputs = F.pad(x @ axes, (0, 1), value=1.0).to(features.dtype)
    ridge = F.pad(x.new_tensor(penalties)[:, None, None].expand(-1, 1, x.shape[1]), (0, 1))
    curvature = F.pad(variances.clamp(min=0), (0, 1), value=1.0) / 2
    order = ridge[:, 0, 0].argsort(descending=True)
    size = max(1, TOGETHER[x.device.type] // (len(x) * classes))
    weights = x.new_zeros(len(penalties), classes, inputs.shape[1])
    converged = torch.zeros_like(order, dtype=torch.bool)
    taken = torch.zeros_like(order)
    start = weights[0]
    for group in order.split(size):
        problems = Problems(
            inputs,
            labels,
            ridge=ridge[group],
            bounds=curvature + ridge[group],
            weights=start.expand(len(group), -1, -1),
        )
        for solved in problems.solved(iterations=iterations, tolerance=tolerance):
            weights[group[solved.places]] = solved.weights
            converged[group[solved.places]] = solved.converged
            taken[group[solved.places]] = solved.iterations
        start = weights[group[-1]]
    probe = LinearProbe(
        scale=scale,
        weights=(weights[:, :, :-1] @ axes.T).to(features.dtype),
        biases=weights[:, :, -1].to(features.dtype),
    )
    return Regression(probe=probe, converged=converged, iterations=taken)


@dataclass(frozen=True, slots=True)
class Solved:
    """Solutions of some of the problems, by their places among all."""

    places: Int[Tensor, "s"]
    weights: Float[Tensor, "s c k"]
    converged: bool
    iterations: int


class Problems:
    """Regressions that are not solved yet, at their present weights."""

    def __init__(
        self,
        inputs: Float[Tensor, "n k"],
        labels: Int[Tensor, "n"],
        *,
        ridge: Float[Tensor, "r 1 k"],
        bounds: Float[Tensor, "r 1 k"],
        weights: Float[Tensor, "r c k"],
    ) -> None:
        """Problems from `weights` on; `bounds` is the diagonal of the bound of the Hessian."""
        self.inputs = inputs
        self.labels = labels
        # Mean input of each class, the part of the gradient that does not depend on weights.
        one_hot = F.one_hot(labels, weights.shape[1]).double()
        self.pull = one_hot.T @ inputs.double() / len(inputs)
        self.places = torch.arange(len(weights), device=inputs.device)
        self.ridge = ridge
        self.bounds = bounds
        self.weights = weights.clone()
        self.scores = self._scores(self.weights)
        self.gradient = self._gradient(self.scores, self.weights)
        self.steps: list[Tensor] = []
        self.changes: list[Tensor] = []

    def solved(self, *, iterations: int, tolerance: float) -> Iterator[Solved]:
        """Every problem once: as it converges, or after that number of iterations."""
        for iteration in range(iterations + 1):
            norm = (self.gradient.square() / self.bounds).sum(dim=(1, 2)).sqrt()
            open_ = norm > tolerance
            if not bool(open_.all()):
                yield Solved(self.places[~open_], self.weights[~open_], True, iteration)
                self._keep(open_)
            if not len(self.places):
                return
            if iteration < iterations:
                self._step()
        yield Solved(self.places, self.weights, False, iterations)

    def _step(self) -> None:
        direction = self._direction()
        along = self._scores(direction)
        length = self._length(direction, along)[:, None, None]
        step = length * direction
        self.weights = self.weights + step
        self.scores = torch.addcmul(self.scores, length.to(along.dtype), along)
        before, self.gradient = self.gradient, self._gradient(self.scores, self.weights)
        self.steps = [*self.steps, step][-MEMORY:]
        self.changes = [*self.changes, self.gradient - before][-MEMORY:]

    def _direction(self) -> Float[Tensor, "r c k"]:
        """Minus the approximate inverse of the Hessian times the gradient, by two loops."""
        q = -self.gradient
        past = []
        for step, change in zip(reversed(self.steps), reversed(self.changes), strict=True):
            rho = 1 / _dot(step, change).clamp(min=1e-300)
            alpha = rho * _dot(step, q)
            q = q - alpha * change
            past.append((step, change, rho, alpha))
        found = q / self.bounds
        if past:
            _, newest, rho, _ = past[0]
            found = found / (rho * _dot(newest, newest / self.bounds))
        for step, change, rho, alpha in reversed(past):
            found = found + step * (alpha - rho * _dot(change, found))
        return found

    def _length(
        self, direction: Float[Tensor, "r c k"], along: Float[Tensor, "r c n"]
    ) -> Float[Tensor, "r"]:
        """Length of each step: the slope of the convex objective is near enough to 0 there.

        Scores are linear in the length, so that a trial multiplies no matrices. A secant finds the
        next trial; the bracket of slopes of both signs bounds the trial.
        """
        pull = (self.pull * direction).sum(dim=(1, 2))
        ridge = (self.ridge * direction * self.weights).sum(dim=(1, 2))
        ridge_along = (self.ridge * direction.square()).sum(dim=(1, 2))
        start = (self.gradient * direction).sum(dim=(1, 2))
        low, low_slope = torch.zeros_like(start), start
        high = torch.full_like(start, torch.inf)
        length = torch.ones_like(start)
        for _ in range(SEARCHES):
            shares = torch.addcmul(
                self.scores, length[:, None, None].to(along.dtype), along
            ).softmax(dim=1)
            pushed = torch.linalg.vecdot(shares.flatten(1), along.flatten(1)) / len(self.inputs)
            slope = pushed - pull + ridge + length * ridge_along
            ratio = slope / start.abs().clamp(min=1e-300)
            found = (ratio >= STEEPEST) & (ratio <= OVERSHOT)
            if bool(found.all()):
                break
            over = slope > 0
            secant = low + (length - low) * low_slope / (low_slope - slope)
            high = torch.where(over, length, high)
            low, low_slope = torch.where(over, low, length), torch.where(over, low_slope, slope)
            within = (secant > low) & (secant < high) & secant.isfinite()
            middle = torch.where(high.isfinite(), (low + high) / 2, 2 * low)
            trial = torch.where(within, secant, middle).minimum(10 * length)
            length = torch.where(found, length, trial)
        return length

    def _scores(self, weights: Float[Tensor, "r c k"]) -> Float[Tensor, "r c n"]:
        # Examples are the last dimension, so that softmax is vectorised over the many examples.
        return (weights.flatten(0, 1).to(self.inputs.dtype) @ self.inputs.T).view(
            *weights.shape[:2], -1
        )

    def _gradient(
        self, scores: Float[Tensor, "r c n"], weights: Float[Tensor, "r c k"]
    ) -> Float[Tensor, "r c k"]:
        pushed = scores.softmax(dim=1).flatten(0, 1) @ self.inputs / len(self.inputs)
        return pushed.view_as(weights) - self.pull + self.ridge * weights

    def _keep(self, chosen: Bool[Tensor, "r"]) -> None:
        """Leave the other problems out."""
        for name in ("places", "ridge", "bounds", "weights", "scores", "gradient"):
            setattr(self, name, getattr(self, name)[chosen])
        self.steps = [each[chosen] for each in self.steps]
        self.changes = [each[chosen] for each in self.changes]


def _dot(a: Float[Tensor, "r c k"], b: Float[Tensor, "r c k"]) -> Float[Tensor, "r 1 1"]:
    return (a * b).sum(dim=(1, 2), keepdim=True)
