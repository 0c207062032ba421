"""InfoNCE between each patch and the patches below it.

Letters: k = prediction step, d = channels of z, e = channels of c; anchor = a place that predicts,
candidate = an encoding that may be the answer, negative = a wrong candidate drawn for an anchor.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from gim_bench.config import InfoNCESettings


def info_nce(
    predictions: Float[Tensor, "anchor d"],
    candidates: Float[Tensor, "candidate d"],
    *,
    positives: Int[Tensor, "anchor"],
    negatives: Int[Tensor, "anchor negative"],
) -> Float[Tensor, ""]:
    """Mean InfoNCE loss over anchors, in nats; `positives` and `negatives` index the candidates.

    An uninformed predictor scores log(1 + negatives); a perfect one approaches 0.

    All candidates are scored in one matrix product and the drawn ones picked from it: the same
    values as gathering encodings, without a copy of them for every anchor.

    Source: Löwe et al. 2019, Eq. 4. Unlike the released code, which takes log(softmax + 1e-11),
    this is the numerically stable form.
    """
    scores = predictions @ candidates.T
    drawn = torch.cat([positives.unsqueeze(1), negatives], dim=1)
    logits = scores.gather(1, drawn).float()
    return -F.log_softmax(logits, dim=1)[:, 0].mean()


class InfoNCEHead(nn.Module):
    """Predicts z in the rows below from c with one matrix W_k for each step k.

    The loss is the mean over k, where Eq. 4 sums: a constant factor that keeps ln(1 + negatives)
    as the chance level for every k, and that Adam's steps do not depend on. Negatives are drawn
    uniformly, with replacement, from all encodings of the batch (section 4.1) and may include the
    positive (appendix A.1); the released code leaves the top rows out, which are never a target.

    Source: Löwe et al. 2019, Eqs. 3 and 4.
    """

    def __init__(self, dim: int, *, settings: InfoNCESettings, generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.generator = generator
        self.predictors = nn.ModuleList(
            nn.Linear(dim, dim, bias=False) for _ in range(settings.prediction_steps)
        )

    def forward(
        self,
        z: Float[Tensor, "image row column d"],
        c: Float[Tensor, "image row column d"],
    ) -> Float[Tensor, ""]:
        """Mean over k of the loss of predicting z in row i + skip_rows + k from c in row i."""
        candidates = rearrange(z, "image row column d -> (image row column) d")
        places = torch.arange(len(candidates), device=z.device).view(z.shape[:3])
        losses = []
        for k, predictor in enumerate(self.predictors, start=1):
            down = self.settings.skip_rows + k
            anchors = rearrange(c[:, :-down], "image row column d -> (image row column) d")
            losses.append(
                info_nce(
                    predictor(anchors),
                    candidates,
                    positives=places[:, down:].flatten(),
                    negatives=self._draw(len(anchors), len(candidates), device=z.device),
                )
            )
        return torch.stack(losses).mean()

    def _draw(
        self, anchors: int, candidates: int, *, device: torch.device
    ) -> Int[Tensor, "anchor negative"]:
        shape = (anchors, self.settings.negatives)
        return torch.randint(candidates, shape, generator=self.generator, device=device)
