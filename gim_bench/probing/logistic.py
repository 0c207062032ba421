"""Multinomial logistic regression by a truncated Newton method, for all penalties of a grid.

The objective is the mean cross-entropy in nats plus penalty / 2 · ‖W‖²; biases are not penalised.
Penalties are solved from the strongest to the weakest, each from the weights of a penalty at most a
decade stronger, the first from the greatest variance on, where weights of 0 are nearly right.
Without these steps, weak penalties end in flat places far from the minimum.

Conjugate gradients find the Newton step. Their preconditioner is the Hessian without the blocks
between two classes. Features are rotated to their principal axes, where these blocks are diagonal
as long as the weights are zero. Later blocks are computed anew whenever products with the Hessian
have cost as much as new blocks cost.

Letters: n = labels, d = feature dimensions, c = classes, r = penalties, k = coordinates, of which
the last belongs to the biases.

Source: Nocedal and Wright 2006, algorithms 5.3 (preconditioned conjugate gradients) and 7.1 (line
search Newton-CG).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gim_bench.probing.classifiers import LinearProbe, Scale

# Share of the greatest variance, in whose rounding the variance of constant directions lies.
CONSTANT = 1e-14
# Elements of the blocks, above which the preconditioner stays the first, diagonal one.
BLOCKS = 2**26
# Products with the Hessian that cost as much as its blocks, for each coordinate: 4nkc floating
# point operations against nk²c.
PRODUCTS = 0.25
# Share by which the diagonals of the blocks are raised, above the rounding of sums in float32.
RAISED = 1e-5
# Conjugate gradients end where the squared residual has this share of its start, or less.
RESIDUAL = 1e-2
# A step is too long where the slope at its end is above this share of the slope at its start.
OVERSHOT = 0.2
SEARCHES = 20
DECADE = 10 * (1 + 1e-9)  # a decade between two penalties is one, however they are rounded
# Smaller probabilities count as 0: products of theirs would be subnormal, which processors are slow
# at.
NEGLIGIBLE = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """Logistic regressions, one for each penalty, and whether each reached the tolerance."""

    probe: LinearProbe
    converged: Bool[Tensor, "r"]
    iterations: Int[Tensor, "r"]  # products with the Hessian


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
    converged after a Newton step that promised to lower the objective by at most `tolerance`, in
    nats, before `iterations` products with the Hessian. Products at the penalties between do not
    count.
    """
    scale = Scale.of(features) if standardised else Scale.centred(features)
    x = scale(features).double()
    variances, axes = torch.linalg.eigh(x.T @ x / len(x))
    axes = axes[:, variances > CONSTANT * variances[-1]]
    inputs = F.pad(x @ axes, (0, 1), value=1.0).to(features.dtype)
    weights = x.new_zeros(len(penalties), classes, inputs.shape[1])
    converged = torch.zeros(len(penalties), dtype=torch.bool)
    taken = torch.zeros(len(penalties), dtype=torch.long)
    newton = Newton(inputs, labels, classes=classes)
    penalty = float(variances[-1])
    for place in sorted(range(len(penalties)), key=lambda place: -penalties[place]):
        while penalty > DECADE * penalties[place]:
            penalty /= 10
            newton.minimise(penalty, iterations=iterations, tolerance=tolerance)
        penalty = penalties[place]
        converged[place], taken[place] = newton.minimise(
            penalty, iterations=iterations, tolerance=tolerance
        )
        weights[place] = newton.weights
    probe = LinearProbe(
        scale=scale,
        weights=(weights[:, :, :-1] @ axes.T).to(features.dtype),
        biases=weights[:, :, -1].to(features.dtype),
    )
    return Regression(probe=probe, converged=converged, iterations=taken)


class Newton:
    """A regression that is solved at one penalty after the other, from its present weights on.

    Weights and gradients sum to 0 over the classes, since a sum that is common to all classes
    changes no probability.
    """

    def __init__(
        self, inputs: Float[Tensor, "n k"], labels: Int[Tensor, "n"], *, classes: int
    ) -> None:
        """The regression with weights 0 and the biases of the classes' frequencies.

        The inputs are uncorrelated, and the last input is 1.
        """
        self.inputs = inputs
        self.transposed = inputs.T.contiguous()
        # Mean input of each class, the part of the gradient that does not depend on weights.
        one_hot = F.one_hot(labels, classes).double()
        self.pull = one_hot.T @ inputs.double() / len(inputs)
        # A class without examples has a frequency too: the logarithm must be finite.
        frequencies = one_hot.sum(dim=0).clamp(min=1e-3) / len(inputs)
        self.weights = torch.zeros_like(self.pull)
        self.weights[:, -1] = frequencies.log() - frequencies.log().mean()
        self.diagonal = (frequencies * (1 - frequencies))[:, None] * inputs.double().square().mean(
            dim=0
        )
        self.ridge = torch.zeros_like(self.pull[0])
        self.blocks: Float[Tensor, "c k k"] | None = None
        self.inverses: Float[Tensor, "c k k"] | None = None
        self.products = 0  # with the Hessian, since the blocks were computed

    def minimise(self, penalty: float, *, iterations: int, tolerance: float) -> tuple[bool, int]:
        """Whether the regression converged at this penalty, and the products that this took."""
        self.ridge[:-1] = penalty
        self._invert()
        taken = 0
        while True:
            scores = self._scores(self.weights)
            shares = _shares(scores)
            gradient = self._moments(shares) - self.pull + self.ridge * self.weights
            self._renew_blocks(shares)
            direction, along, products = self._newton_step(
                gradient, shares, tolerance=tolerance, limit=iterations - taken
            )
            taken += products
            self.products += products
            length = self._length(direction, along, scores=scores, gradient=gradient)
            self.weights = self.weights + length * direction
            promised = -_dot(gradient, direction) / 2
            # A step that the limit cut short promises too little.
            if promised <= tolerance or taken >= iterations:
                return taken < iterations, taken

    def _newton_step(
        self,
        gradient: Float[Tensor, "c k"],
        shares: Float[Tensor, "c n"],
        *,
        tolerance: float,
        limit: int,
    ) -> tuple[Float[Tensor, "c k"], Float[Tensor, "c n"], int]:
        """The Newton step, the change of the scores along it, and the products that this took."""
        step, along = torch.zeros_like(gradient), torch.zeros_like(shares)
        residual = -gradient
        solved = self._preconditioned(residual)
        direction, square = solved, _dot(residual, solved)
        # The closer to the minimum, the more exact; but no more exact than the tolerance asks for.
        enough = max(square * min(RESIDUAL, abs(square) ** 0.5), tolerance / 5)
        products = 0
        while products < limit:
            products += 1
            scores = self._scores(direction)
            pushed = shares * scores
            pushed.addcmul_(shares, pushed.sum(dim=0), value=-1)
            product = self._moments(pushed) + self.ridge * direction
            curvature = _dot(direction, product)
            if curvature <= 0:  # by rounding
                break
            length = square / curvature
            step += length * direction
            along.add_(scores, alpha=length)
            residual = residual - length * product
            solved = self._preconditioned(residual)
            before, square = square, _dot(residual, solved)
            if square <= enough:
                break
            direction = solved + square / before * direction
        return step, along, products

    def _length(
        self,
        direction: Float[Tensor, "c k"],
        along: Float[Tensor, "c n"],
        *,
        scores: Float[Tensor, "c n"],
        gradient: Float[Tensor, "c k"],
    ) -> float:
        """Length of the step, at which the slope of the convex objective is not far above 0.

        Scores are linear in the length, so that a trial multiplies no matrices.
        """
        start = _dot(gradient, direction)
        fixed = _dot(self.ridge * self.weights - self.pull, direction)
        bent = _dot(self.ridge * direction, direction)
        length = 1.0
        for _ in range(SEARCHES):
            shares = _shares(torch.add(scores, along, alpha=length))
            slope = _dot(shares, along) / len(self.inputs) + fixed + length * bent
            if slope <= OVERSHOT * -start:
                break
            length *= start / (start - slope)
        return length

    def _scores(self, weights: Float[Tensor, "c k"]) -> Float[Tensor, "c n"]:
        # Examples are the last dimension, so that softmax is vectorised over the many examples.
        return weights.to(self.inputs.dtype) @ self.transposed

    def _moments(self, values: Float[Tensor, "c n"]) -> Float[Tensor, "c k"]:
        """Mean over the examples of each value times the inputs."""
        return (values @ self.inputs).double() / len(self.inputs)

    def _preconditioned(self, gradient: Float[Tensor, "c k"]) -> Float[Tensor, "c k"]:
        if self.inverses is None:
            found = gradient / (self.diagonal + self.ridge)
        else:
            found = (self.inverses @ gradient[:, :, None]).squeeze(2)
        return found - found.mean(dim=0)

    def _renew_blocks(self, shares: Float[Tensor, "c n"]) -> None:
        """Blocks at the present weights, if the products since the last blocks cost as much."""
        coordinates = self.inputs.shape[1]
        if self.products <= PRODUCTS * coordinates or shares.shape[0] * coordinates**2 > BLOCKS:
            return
        spread = shares * (1 - shares) / len(self.inputs)
        self.blocks = torch.stack(
            [((self.transposed * of_class) @ self.inputs).double() for of_class in spread]
        )
        self.products = 0
        self._invert()

    def _invert(self) -> None:
        """Invert the blocks with the penalty."""
        if self.blocks is None:
            return
        diagonals = self.blocks.diagonal(dim1=1, dim2=2) + self.ridge
        diagonals = diagonals * (1 + RAISED) + 1e-12  # a class without examples has a block of 0
        blocks = self.blocks.diagonal_scatter(diagonals, dim1=1, dim2=2)
        factors, failed = torch.linalg.cholesky_ex(blocks)
        alone = torch.diag_embed(diagonals.sqrt())
        factors = torch.where((failed > 0)[:, None, None], alone, factors)
        self.inverses = torch.cholesky_inverse(factors)


def _shares(scores: Float[Tensor, "c n"]) -> Float[Tensor, "c n"]:
    """Probabilities of the classes."""
    return F.threshold(scores.softmax(dim=0), NEGLIGIBLE, 0.0)


def _dot(a: Float[Tensor, "c m"], b: Float[Tensor, "c m"]) -> float:
    return float((a * b).sum(dtype=torch.float64))
