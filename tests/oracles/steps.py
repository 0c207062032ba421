"""Which 10 ms step of a window a layer's time step belongs to, found by looking at them all."""

from collections.abc import Sequence

import torch
from torch import Tensor

FIRST_CENTRE, STEP = 40, 160  # samples: label j of a window is centred at sample 160·j + 40


def slow_owner(centre: float, *, steps: int) -> int | None:
    """The step whose label is centred nearest; the later of two. None: one beyond the window."""
    nearest = min(range(steps + 10), key=lambda j: (abs(centre - (STEP * j + FIRST_CENTRE)), -j))
    return nearest if nearest < steps else None


def slow_steps(z: Tensor, *, centres: Sequence[float], steps: int) -> Tensor:
    """The mean over the time steps of z, [b t 1 d], that belong to each step; 0 where none do."""
    found = torch.zeros(len(z), steps, z.shape[3])
    for j in range(steps):
        mine = [t for t, centre in enumerate(centres) if slow_owner(centre, steps=steps) == j]
        for t in mine:
            found[:, j] += z[:, t, 0] / len(mine)
    return found
