"""The linear probe of the paper: softmax regression by Adam, for all learning rates in one pass.

The other rates in a pass change a rate's result by rounding only; the rounding can grow to points
of accuracy if the rate is too high to converge.

Letters: n = labels, b = labels of a batch, d = feature dimensions, c = classes, r = learning rates.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim.adam import adam

from gim_bench import seeding
from gim_bench.probing.classifiers import LinearProbe, Scale

# Adam's constants (Kingma and Ba 2014), which the paper leaves at their defaults.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Adam's moments of some tensors, which `step` changes in place.

    torch.optim.Adam takes the same steps to the bit, but the first of a process imports for a
    second, and every step costs as much as those of a small network.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = [parameter.detach() for parameter in parameters]
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.taken = [torch.zeros((), device=p.device) for p in self.parameters]

    def step(self, gradients: Sequence[Tensor], *, rate: float) -> None:
        adam(
            self.parameters, list(gradients), self.first, self.second, [], self.taken,
            fused=True, lr=rate, beta1=BETA1, beta2=BETA2, eps=EPSILON, weight_decay=0.0,
            amsgrad=False, maximize=False,
        )  # fmt: skip


def train_linear(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, "n"],
    *,
    learning_rates: Sequence[float],
    weight_decays: Sequence[float] | None = None,
    classes: int,
    steps: int,
    batch_size: int,
    standardised: bool,
    stream: tuple[str, int],
) -> LinearProbe:
    """Softmax regression by Adam from zero weights, for all learning rates in one pass.

    The rates share batches and matrix products only, so that no rate changes the result of another.
    `weight_decays` holds AdamW's decay for each rate: every step shrinks weights and biases by
    rate · decay, and the gradient is unchanged. None: no decay.

    Source: Loshchilov and Hutter 2019 (decoupled weight decay), Algorithm 2, as in torch's AdamW.
    """
    scale = (Scale.of if standardised else Scale.unchanged)(features)
    # A last column of ones, whose weights are the biases.
    inputs = F.pad(scale(features), (0, 1), value=1.0)
    one_hot = F.one_hot(labels, classes).to(inputs.dtype)
    rates = inputs.new_tensor(learning_rates).view(-1, 1, 1)
    # Adam's step is proportional to its rate: at rate 1 it trains u, and the weights are rate · u.
    u = inputs.new_zeros(len(learning_rates) * classes, inputs.shape[1])
    optimiser = Adam([u])
    kept = None
    if weight_decays is not None and any(weight_decays):
        decays = inputs.new_tensor(weight_decays).view(-1, 1, 1)
        kept = (1 - rates * decays).expand(-1, classes, 1).reshape(-1, 1)
    draw = seeding.generator("probe", *stream)
    batches = shuffled_batches(len(inputs), batch_size, draw, device=u.device)
    for chosen in islice(batches, steps):
        x, y = inputs.index_select(0, chosen), one_hot.index_select(0, chosen)
        gradient = _gradient(u, x, y, rates=rates)
        if kept is not None:
            u *= kept
        optimiser.step([gradient], rate=1.0)
    weights = rates * u.view(len(rates), classes, -1)
    return LinearProbe(scale=scale, weights=weights[:, :, :-1], biases=weights[:, :, -1])


def _gradient(
    u: Float[Tensor, "rc d"],
    x: Float[Tensor, "b d"],
    y: Float[Tensor, "b c"],
    *,
    rates: Float[Tensor, "r 1 1"],
) -> Float[Tensor, "rc d"]:
    """Gradient of the mean cross-entropy with respect to the weights rate · u; y is one-hot."""
    # The batch is the last dimension, so that softmax is vectorised over the many examples.
    scores = rates * (u @ x.T).view(len(rates), -1, len(x))
    errors = (scores.softmax(dim=1) - y.T) / len(x)
    return errors.flatten(0, 1) @ x


def shuffled_batches(
    labels: int, batch_size: int, draw: torch.Generator, *, device: torch.device
) -> Iterator[Int[Tensor, "b"]]:
    """Endless batches of indices, in a new random order in every pass."""
    while True:
        # One copy for each pass: a copy at every step would make the CPU wait for a GPU.
        yield from torch.randperm(labels, generator=draw).to(device).split(batch_size)
