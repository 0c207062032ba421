"""Cross-entropy of a linear classifier on encodings."""

import math

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gim_bench.contract import UNLABELLED, Objective, Target
from gim_bench.hardware.devices import at_least_fp32

CROSS_ENTROPY = Objective(name="cross_entropy", unit="nats")


def mean_cross_entropy(
    logits: Float[Tensor, "example class"], labels: Int[Tensor, "example"]
) -> Float[Tensor, ""]:
    """Mean cross-entropy over labels, in nats and at least in fp32.

    Examples without a label (-1) do not count. The loss of a batch without labels is 0.
    """
    scores = logits.to(at_least_fp32(logits.dtype))
    total = F.cross_entropy(scores, labels, ignore_index=UNLABELLED, reduction="sum")
    return total / (labels != UNLABELLED).sum().clamp(min=1)


class CrossEntropyHead(nn.Module):
    """A linear classifier on the probe's inputs: encodings of every step, or their mean over steps.

    Source: Löwe et al. 2019, section 4.1 (supervised and greedy supervised).
    """

    def __init__(self, dim: int, *, target: Target) -> None:
        super().__init__()
        self.target = target
        self.classifier = nn.Linear(dim, len(target.classes))

    @property
    def uninformed_loss(self) -> float:
        """log(classes): the loss where all classes have equal scores, in nats.

        Where classes are not equally frequent, their frequencies alone give a lower loss.
        """
        return math.log(len(self.target.classes))

    def logits(self, z: Float[Tensor, "example step d"]) -> Float[Tensor, "example i class"]:
        """Class scores of every step, or of the whole example."""
        return self.classifier(z if self.target.per_step else z.mean(dim=1, keepdim=True))

    def forward(
        self, z: Float[Tensor, "example step d"], labels: Int[Tensor, "example *step"]
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy over labels, in nats; ln(classes) for an uninformed classifier.

        Unlabelled steps (-1) do not count. The loss of a batch without labels is 0.
        """
        return mean_cross_entropy(self.logits(z).flatten(0, 1), labels.flatten())
