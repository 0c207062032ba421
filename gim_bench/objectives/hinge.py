"""The hinge loss of one true or one false prediction: what follows in the image, or another image.

Letters: as in prediction.py; y = +1 where an example is given what follows, -1 where another's.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gim_bench.contract import Objective
from gim_bench.errors import ConfigError
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.objectives.prediction import PredictionHead, PredictionSettings

HINGE = Objective(name="hinge", settings=PredictionSettings)


def hinge(
    scores: Float[Tensor, "example *place"], y: Float[Tensor, "example"]
) -> Float[Tensor, ""]:
    """Mean of max(0, 1 - y·score) over examples and places.

    The loss of an uninformed predictor is 1; the loss is 0 where every score has the sign of y and
    a size of 1 or more.

    Source: Illing et al. 2021, Eq. 3.
    """
    signed = y.view(-1, *[1] * (scores.dim() - 1)) * scores
    return F.relu(1 - signed).mean()


class HingeHead(PredictionHead):
    """Scores what follows above 1, or what another example has in the same places below -1.

    Each example has one of the two with equal chances: y = ±1 holds for all its places and all k.
    With y = -1 its predictions are compared with the encodings of another example of the batch,
    drawn uniformly for each k. The loss is the mean over k, as GIM's is. Gradients reach c and z
    through the same W_k: the weights for feedback that CLAPP learns apart are left out.

    Scores are computed in fp32 or wider, as InfoNCE's are.

    Source: Illing et al. 2021, Eqs. 2 and 3, section 3.
    """

    @property
    def uninformed_loss(self) -> float:
        """1: the loss where all scores are 0."""
        return 1.0

    def forward(
        self,
        z: Float[Tensor, "example row column d"],
        c: Float[Tensor, "example row column e"],
    ) -> Float[Tensor, ""]:
        """Mean over k of the loss of predicting z in row i + skip_rows + k from c in row i.

        Raises: ConfigError if the batch has no second example.
        """
        if len(z) < 2:
            raise ConfigError(
                "a batch of one example has no other example to draw a negative from: raise "
                "training.batch_size to 2 or more"
            )
        z = z.to(at_least_fp32(z.dtype))
        targets, anchors = self._window(z, c)
        predictions = self.by_step(self.predictors(anchors))
        with torch.autocast(z.device.type, enabled=False):
            y = self._signs(len(z), like=z)
            losses = []
            for k in range(1, predictions.shape[3] + 1):
                below = self.below(targets, anchors=anchors, k=k)
                given = below.index_select(0, self._given(y))
                scores = (predictions[:, : below.shape[1], :, k - 1] * given).sum(dim=-1)
                losses.append(hinge(scores, y))
            return torch.stack(losses).mean()

    def _signs(self, examples: int, *, like: Tensor) -> Float[Tensor, "example"]:
        """Signs y of the examples, +1 or -1 with equal chances."""
        drawn = torch.randint(2, (examples,), generator=self.generator, device=like.device)
        return (2 * drawn - 1).to(like.dtype)

    def _given(self, y: Float[Tensor, "example"]) -> Int[Tensor, "example"]:
        """The example whose encodings each example is given: its own, or another at random."""
        own = torch.arange(len(y), device=y.device)
        further = torch.randint(1, len(y), (len(y),), generator=self.generator, device=y.device)
        return torch.where(y > 0, own, (own + further) % len(y))
