"""Batches of long recordings, which are read by windows and never held whole."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gim_bench.contract import Recordings
from gim_bench.datasets.arrays import read_part
from gim_bench.datasets.batches import BatchOptions
from gim_bench.datasets.large import LargeBatches
from gim_bench.datasets.speech.windows import normalise
from gim_bench.hardware.transfers import moved
from gim_bench.settings.augmentations import FRAME_SAMPLES, StretchSettings


class StretchBatches(LargeBatches):
    """Windows at random 10 ms places of the beginnings of unlabelled recordings."""

    dimensions = 1
    side_setting = "augmentation.length"

    def __init__(
        self,
        recordings: Recordings,
        *,
        augmentation: StretchSettings,
        grid: int = FRAME_SAMPLES,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(
            examples=len(recordings),
            side=augmentation.length,
            window=augmentation.samples,
            windows=augmentation.windows,
            grid=grid,
            **options,
        )
        self.recordings = recordings
        self.augmentation = augmentation

    def read(
        self, example: int, corner: Sequence[int], *, size: Sequence[int]
    ) -> Float[Tensor, "1 sample"]:
        (first,), (count,) = corner, size
        start = int(self.recordings.starts[example]) + first
        found: np.ndarray = read_part(self.recordings.samples, start, count=count)
        samples = moved(torch.from_numpy(found)[None], device=self.device)
        return normalise(samples, augmentation=self.augmentation)
