"""The losses of Nøkland and Eidnes 2019, section 3, as loops over examples, places and channels.

Maps are [example d row column]. Everything is a 0-dimensional tensor, so that the loops have
gradients.
"""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor


def slow_predsim(
    maps: Tensor,
    labels: Sequence[int],
    *,
    kernel: Tensor,
    classifier: tuple[Tensor, Tensor],
    pooled: tuple[int, int],
    classes: int,
    similarity: float,
    prediction: float,
) -> Tensor:
    """similarity · L_sim of the convolved maps + prediction · L_pred of the pooled ones.

    `kernel` is that of the convolution, [d d 3 3]; `classifier` the weights and biases of the
    linear map from the maps averaged to `pooled` rows and columns, whose sides divide the maps'.
    """
    convolved = [slow_convolution(example, kernel) for example in maps]
    statistics = [[slow_deviation(channel) for channel in example] for example in convolved]
    one_hot = [
        [torch.tensor(float(label == c)).to(maps) for c in range(classes)] for label in labels
    ]
    sim = slow_similarity_loss(statistics, one_hot)
    losses = [
        slow_cross_entropy(slow_scores(example, classifier, pooled), label)
        for example, label in zip(maps, labels, strict=True)
    ]
    return similarity * sim + prediction * sum(losses) / len(losses)


def slow_similarity_loss(
    hidden: Sequence[Sequence[Tensor]], targets: Sequence[Sequence[Tensor]]
) -> Tensor:
    """‖S(H) - S(Y)‖² over the number of entries of S."""
    pairs = list(product(range(len(hidden)), repeat=2))
    differences = [
        slow_similarity(hidden[i], hidden[j]) - slow_similarity(targets[i], targets[j])
        for i, j in pairs
    ]
    return sum(difference**2 for difference in differences) / len(pairs)


def slow_similarity(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """s_ij: the cosine of two vectors, each without its own mean."""
    a, b = ([x - sum(vector) / len(vector) for x in vector] for vector in (one, other))
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (sum(x * x for x in a).sqrt() * sum(y * y for y in b).sqrt())


def slow_deviation(channel: Tensor) -> Tensor:
    """The standard deviation over places; its scale cancels in the cosine."""
    values = list(channel.flatten())
    mean = sum(values) / len(values)
    return (sum((value - mean) ** 2 for value in values) / len(values)).sqrt()


def slow_convolution(maps: Tensor, kernel: Tensor) -> Tensor:
    """A 3×3 convolution of stride 1 of [d row column], with zeros beyond the border."""
    d, rows, columns = maps.shape
    out = []
    for channel, row, column in product(range(len(kernel)), range(rows), range(columns)):
        total = maps.new_zeros(())
        for below, i, j in product(range(d), range(3), range(3)):
            r, c = row + i - 1, column + j - 1
            if 0 <= r < rows and 0 <= c < columns:
                total = total + kernel[channel, below, i, j] * maps[below, r, c]
        out.append(total)
    return torch.stack(out).view(len(kernel), rows, columns)


def slow_scores(
    maps: Tensor, classifier: tuple[Tensor, Tensor], pooled: tuple[int, int]
) -> list[Tensor]:
    """The classes' scores of [d row column], from means over equal parts of rows and columns."""
    weights, biases = classifier
    height, width = maps.shape[1] // pooled[0], maps.shape[2] // pooled[1]
    inputs = [
        sum(
            maps[channel, row * height + i, column * width + j]
            for i, j in product(range(height), range(width))
        )
        / (height * width)
        for channel, row, column in product(range(len(maps)), *map(range, pooled))
    ]
    return [
        sum(w * x for w, x in zip(row, inputs, strict=True)) + bias
        for row, bias in zip(weights, biases, strict=True)
    ]


def slow_cross_entropy(scores: Sequence[Tensor], label: int) -> Tensor:
    """-log softmax(scores)[label], in nats."""
    return sum(score.exp() for score in scores).log() - scores[label]
