"""GIM on speech written down the straightforward way, as a yardstick for speed and memory.

fp32, every loss computed in one forward pass, then a backward pass and a step of plain Adam for
each module in turn. Negatives are gathered for every time step of a layer before a window of 128
anchors is cut out: the procedure of Löwe et al. 2019, without a thought for speed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PREDICTION_STEPS, NEGATIVES, ANCHORS = 12, 10, 128


class InfoNCE(nn.Module):
    """Eqs. 3, 4 and 6 for sequences."""

    def __init__(self, z_channels: int, c_channels: int) -> None:
        super().__init__()
        self.predictors = nn.ModuleList(
            nn.Conv1d(c_channels, z_channels, kernel_size=1, bias=False)
            for _ in range(PREDICTION_STEPS)
        )

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Mean loss over k in nats, of z and c as [batch channel time]."""
        batch, channels, length = z.shape
        everywhere = z.transpose(1, 2).reshape(-1, channels)
        places = torch.randint(len(everywhere), (NEGATIVES * batch * length,))
        negatives = everywhere[places].view(NEGATIVES, batch, length, channels)
        first = int(torch.randint(length - ANCHORS + 1, ()))
        z = z[:, :, first : first + ANCHORS]
        c = c[:, :, first : first + ANCHORS]
        negatives = negatives[:, :, first : first + ANCHORS]
        total = z.new_zeros(())
        for k, predictor in enumerate(self.predictors, start=1):
            predicted = predictor(c[:, :, :-k]).transpose(1, 2)
            positive = (predicted * z[:, :, k:].transpose(1, 2)).sum(-1, keepdim=True)
            negative = (predicted * negatives[:, :, k:]).sum(-1).permute(1, 2, 0)
            scores = torch.cat([positive, negative], dim=2).flatten(0, 1)
            log_probability = torch.log(torch.softmax(scores, dim=1) + 1e-11)
            total = total + F.nll_loss(log_probability, torch.zeros(len(scores), dtype=torch.long))
        return total / PREDICTION_STEPS


class GreedyInfoMax(nn.Module):
    """Five strided convolutions of 512 channels and a GRU of 256 units, each a module."""

    def __init__(self) -> None:
        super().__init__()
        layers = [(10, 5, 2), (8, 4, 2), (4, 2, 2), (4, 2, 2), (4, 2, 1)]
        channels = [1, 512, 512, 512, 512]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, 512, kernel_size=kernel, stride=stride, padding=padding)
            for width, (kernel, stride, padding) in zip(channels, layers, strict=True)
        )
        self.gru = nn.GRU(512, 256, batch_first=True)
        self.losses = nn.ModuleList([*(InfoNCE(512, 512) for _ in layers), InfoNCE(512, 256)])

    def forward(self, speech: Tensor) -> list[Tensor]:
        """The losses of all modules, of speech as [batch sample]."""
        x = speech.unsqueeze(1)
        losses = []
        for convolution, info_nce in zip(self.convolutions, self.losses, strict=False):
            x = F.relu(convolution(x.detach()))
            losses.append(info_nce(x, x))
        z = x.detach()
        c, _ = self.gru(z.transpose(1, 2))
        losses.append(self.losses[-1](z, c.transpose(1, 2)))
        return losses

    def units(self) -> list[list[nn.Parameter]]:
        """The parameters of each module and its loss."""
        modules = zip([*self.convolutions, self.gru], self.losses, strict=True)
        return [[*module.parameters(), *info_nce.parameters()] for module, info_nce in modules]


class Trainer:
    """An Adam for each module; all gradients are cleared before each backward pass."""

    def __init__(self, model: GreedyInfoMax, *, learning_rate: float) -> None:
        self.model = model
        self.optimisers = [torch.optim.Adam(unit, lr=learning_rate) for unit in model.units()]

    def step(self, speech: Tensor) -> list[float]:
        """One step of every module; the losses in nats."""
        losses = self.model(speech)
        for loss, optimiser in zip(losses, self.optimisers, strict=True):
            self.model.zero_grad()
            loss.backward(retain_graph=loss is not losses[-1])
            optimiser.step()
        return [loss.item() for loss in losses]
