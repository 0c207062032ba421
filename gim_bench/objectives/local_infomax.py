"""Deep InfoMax's local objective: InfoNCE between global encodings and all locations.

Letters: d = channels of a local encoding, e = channels of a global encoding, u = units of the MI
networks; global = a global encoding of an example, place = a location of its local encodings.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Objective
from gim_bench.errors import ConfigError
from gim_bench.hardware.devices import at_least_fp32
from gim_bench.settings.base import PositiveInt, Settings


class LocalInfoMaxSettings(Settings):
    """Settings that all rows of a suite share: `[objective.local_infomax]`."""

    mi_units: PositiveInt = 1024  # channels of the MI networks


LOCAL_INFOMAX = Objective(name="local_infomax", unit="nats", settings=LocalInfoMaxSettings)


def local_infomax(scores: Float[Tensor, "n global m place"]) -> Float[Tensor, ""]:
    """Mean InfoNCE loss over globals and locations of the same example, in nats.

    `scores[n, :, m]` are those of the globals of example n with the locations of example m. The
    candidates of a global are one location of its own example, the positive, and all locations of
    all other examples. An uninformed predictor has a loss of log(1 + (examples - 1)·places); the
    loss of a perfect one approaches 0.

    Source: Hjelm et al. 2019, the local objective (section 3.2) with the infoNCE estimator. The
    released code gives locations of the same example a score of -10 among the negatives; here they
    are left out.
    """
    scores = scores.to(at_least_fp32(scores.dtype))
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)[:, None, :, None]
    others = scores.masked_fill(own, -math.inf).flatten(2).logsumexp(dim=-1)
    positives = scores.diagonal(dim1=0, dim2=2)  # global, place, n
    # log(e^positive + Σ e^negative) - positive
    return -F.logsigmoid(positives - rearrange(others, "n g -> g 1 n")).mean()


class MINetwork(nn.Module):
    """Two 1×1 convolutions with batch norm and ReLU between, a linear shortcut, and layer norm.

    The shortcut begins as the identity with noise of ±0.01, where the network is wide enough.

    Source: Hjelm et al. 2019, the encode-and-dot-product architecture; `MI1x1ConvNet` of the
    released code.
    """

    def __init__(self, dim: int, *, units: int) -> None:
        super().__init__()
        self.nonlinear = nn.Sequential(
            nn.Linear(dim, units, bias=False),
            nn.BatchNorm1d(units),
            nn.ReLU(inplace=True),
            nn.Linear(units, units),
        )
        self.shortcut = nn.Linear(dim, units, bias=False)
        self.norm = nn.LayerNorm(units)
        if units >= dim:
            with torch.no_grad():
                self.shortcut.weight.uniform_(-0.01, 0.01).fill_diagonal_(1.0)

    def forward(
        self, grid: Float[Tensor, "example row column d"]
    ) -> Float[Tensor, "example place u"]:
        """Features of all places, in fp32 at least."""
        places = grid.flatten(0, 2)
        mapped = self.nonlinear(places) + self.shortcut(places)
        with torch.autocast(grid.device.type, enabled=False):
            features = self.norm(mapped.to(self.norm.weight.dtype))
        return features.unflatten(0, (len(grid), -1))


class LocalInfoMaxHead(nn.Module):
    """MI networks of locations and of globals; the product of their features is the score.

    Scores are computed in fp32 or wider under autocast, for the reason that InfoNCEHead has.
    """

    candidates: Tensor

    def __init__(self, *, local_dim: int, global_dim: int, settings: LocalInfoMaxSettings) -> None:
        super().__init__()
        self.local_network = MINetwork(local_dim, units=settings.mi_units)
        self.global_network = MINetwork(global_dim, units=settings.mi_units)
        # Of a global in the last batch with gradients, which held-out batches have not; in
        # checkpoints, so that a resumed training that is over already knows them. 0: no batch.
        self.register_buffer("candidates", torch.zeros((), dtype=torch.long))

    @property
    def uninformed_loss(self) -> float | None:
        """log(candidates), in nats; None before the first batch with gradients."""
        candidates = int(self.candidates)
        return math.log(candidates) if candidates else None

    def forward(
        self,
        local: Float[Tensor, "example row column d"],
        summary: Float[Tensor, "example global_row global_column e"],
    ) -> Float[Tensor, ""]:
        """The loss of the globals in `summary`. Raises: ConfigError for a batch of one example."""
        if len(local) < 2:
            raise ConfigError(
                "Deep InfoMax takes negatives from the other images of a batch, which has one "
                "image: raise training.batch_size"
            )
        places, globals_ = self.local_network(local), self.global_network(summary)
        if torch.is_grad_enabled():
            self.candidates.fill_(1 + (len(places) - 1) * places.shape[1])
        with torch.autocast(local.device.type, enabled=False):
            scores = globals_.flatten(0, 1) @ places.flatten(0, 1).T
        return local_infomax(
            rearrange(scores, "(n g) (m place) -> n g m place", n=len(globals_), m=len(places))
        )
