"""Cross-entropy of a linear classifier on the mean encoding of an image."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class CrossEntropyHead(nn.Module):
    """A linear classifier on the mean over the grid, the representation that the probe reads.

    Source: Löwe et al. 2019, section 4.1 (supervised and greedy supervised).
    """

    def __init__(self, dim: int, *, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(dim, classes)

    def logits(self, z: Float[Tensor, "image row column d"]) -> Float[Tensor, "image class"]:
        """Class scores."""
        return self.classifier(z.mean(dim=(1, 2)))

    def forward(
        self, z: Float[Tensor, "image row column d"], labels: Int[Tensor, "image"]
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy over images, in nats; ln(classes) for an uninformed classifier."""
        logits = self.logits(z)
        at_least_fp32 = torch.promote_types(logits.dtype, torch.float32)
        return F.cross_entropy(logits.to(at_least_fp32), labels)
