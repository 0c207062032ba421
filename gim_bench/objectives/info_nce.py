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

# Candidates per drawn one above which gathering beats the full matrix product in fp32.
GATHER_ABOVE = 64


def info_nce(
    predictions: Float[Tensor, "anchor d"],
    candidates: Float[Tensor, "candidate d"],
    *,
    positives: Int[Tensor, "anchor"],
    negatives: Int[Tensor, "anchor negative"],
) -> Float[Tensor, ""]:
    """Mean InfoNCE loss over anchors, in nats; `positives` and `negatives` index the candidates.

    An uninformed predictor scores log(1 + negatives); a perfect one approaches 0.

    Source: Löwe et al. 2019, Eq. 4. Unlike the released code, which takes log(softmax + 1e-11),
    this is the numerically stable form.
    """
    drawn = torch.cat([positives.unsqueeze(1), negatives], dim=1)
    logits = scores(predictions, candidates, drawn=drawn)
    at_least_fp32 = torch.promote_types(logits.dtype, torch.float32)
    return -F.log_softmax(logits, dim=1, dtype=at_least_fp32)[:, 0].mean()


def scores(
    predictions: Float[Tensor, "anchor d"],
    candidates: Float[Tensor, "candidate d"],
    *,
    drawn: Int[Tensor, "anchor n"],
) -> Float[Tensor, "anchor n"]:
    """Dot products of every prediction with the candidates drawn for it.

    Mostly all candidates are scored in one matrix product and the drawn ones picked from it: no
    copy of encodings for every anchor, and matrix products are what hardware is fast at. Only in
    fp32, and where few of many candidates are drawn, is gathering encodings faster
    (docs/experiments.md, InfoNCE scores).
    """
    few_of_many = len(candidates) > GATHER_ABOVE * drawn.shape[1]
    if few_of_many and predictions.dtype is torch.float32:
        return torch.einsum("ad,and->an", predictions, F.embedding(drawn, candidates))
    return (predictions @ candidates.T).gather(1, drawn)


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
