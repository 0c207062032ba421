"""GIM written down the straightforward way, as a yardstick for speed.

Channels first, fp32, every loss computed in one forward pass, then a backward pass and a step of
plain Adam for each module in turn: the procedure of Löwe et al. 2019, without a thought for speed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PREDICTION_STEPS, SKIP_ROWS, NEGATIVES = 5, 1, 16


class InfoNCE(nn.Module):
    """Eqs. 3 and 4: maps the targets with W_k and gathers 16 of them for every anchor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.predictors = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel_size=1, bias=False)
            for _ in range(PREDICTION_STEPS)
        )

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Mean loss over k in nats, of z and c as [image channel row column]."""
        total = z.new_zeros(())
        for k, predictor in enumerate(self.predictors, start=1):
            down = SKIP_ROWS + k
            targets = predictor(z[:, :, down:]).permute(2, 3, 0, 1).flatten(0, 2)
            anchors = c[:, :, :-down].permute(2, 3, 0, 1).flatten(0, 2)
            places = torch.randint(len(targets), (len(targets) * NEGATIVES, 1))
            negatives = targets.gather(0, places.repeat(1, targets.shape[1]))
            negatives = negatives.view(len(targets), NEGATIVES, -1).permute(0, 2, 1)
            positive = anchors.unsqueeze(1) @ targets.unsqueeze(2)
            scores = torch.cat([positive, anchors.unsqueeze(1) @ negatives], dim=2).squeeze(1)
            log_probability = torch.log(torch.softmax(scores, dim=1) + 1e-11)
            total = total + F.nll_loss(log_probability, torch.zeros(len(scores), dtype=torch.long))
        return total / PREDICTION_STEPS


class Block(nn.Module):
    """Pre-activation bottleneck block without batch norm."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1)
        self.conv3 = nn.Conv2d(width, 4 * width, kernel_size=1)
        self.shortcut = None
        if stride != 1 or in_channels != 4 * width:
            self.shortcut = nn.Conv2d(in_channels, 4 * width, kernel_size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """One block further, [patch channel row column]."""
        out = F.relu(x)
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        out = self.conv2(F.relu(out))
        out = self.conv3(F.relu(out))
        return out + shortcut


def patches_of(images: Tensor) -> tuple[Tensor, int]:
    """Patches of 16×16 pixels that overlap by 8, as one batch, and how many lie in a row."""
    patches = images.unfold(2, 16, 8).unfold(3, 16, 8)
    x = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1], 16, 16)
    return x, patches.shape[2]


class Module(nn.Module):
    """A gradient-isolated module: its blocks and its loss."""

    def __init__(self, layers: list[nn.Module], channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.info_nce = InfoNCE(channels)

    def forward(self, x: Tensor, *, side: int) -> tuple[Tensor, Tensor]:
        """(activations for the next module, this module's loss)."""
        x = self.layers(x)
        z = F.adaptive_avg_pool2d(x, 1).view(-1, side, side, x.shape[1]).permute(0, 3, 1, 2)
        z = z.contiguous()
        return x, self.info_nce(z, z)


class GreedyInfoMax(nn.Module):
    """ResNet-50 v2 in three modules of 3, 4 and 6 blocks on patches of 16×16 pixels."""

    def __init__(self) -> None:
        super().__init__()
        modules = []
        channels = 64
        for m, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6)]):
            layers: list[nn.Module] = [nn.Conv2d(1, 64, kernel_size=5, padding=2)] if m == 0 else []
            for block in range(blocks):
                layers.append(Block(channels, width, stride=2 if m > 0 and block == 0 else 1))
                channels = 4 * width
            modules.append(Module(layers, channels))
        self.units = nn.ModuleList(modules)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The losses of all modules, of images as [image channel row column]."""
        x, side = patches_of(images)
        losses = []
        for unit in self.units:
            x, loss = unit(x.detach(), side=side)
            losses.append(loss)
        return losses

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """[image channel] for every module: its encodings, averaged over pixels and patches."""
        x, _ = patches_of(images)
        found = []
        for unit in self.units:
            x = unit.layers(x)
            z = F.adaptive_avg_pool2d(x, 1).view(len(images), -1, x.shape[1])
            found.append(z.mean(dim=1))
        return found


class Trainer:
    """An Adam for each module; all gradients are cleared before each backward pass."""

    def __init__(self, model: GreedyInfoMax, *, learning_rate: float) -> None:
        self.model = model
        self.optimisers = [
            torch.optim.Adam(unit.parameters(), lr=learning_rate) for unit in model.units
        ]

    def step(self, images: Tensor) -> list[float]:
        """One step of every module; the losses in nats."""
        losses = self.model(images)
        for loss, optimiser in zip(losses, self.optimisers, strict=True):
            self.model.zero_grad()
            loss.backward(retain_graph=loss is not losses[-1])
            optimiser.step()
        return [loss.item() for loss in losses]
