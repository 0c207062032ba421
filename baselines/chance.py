"""A constant."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from baselines.fixed_features import FixedFeatures, fixed_traits
from gim_bench.contract import Modality
from gim_bench.settings.augmentations import FRAME_SAMPLES


class Chance(FixedFeatures):
    """The same feature for every example: a probe can only name the most frequent class."""

    traits = fixed_traits(*Modality)

    @torch.no_grad()
    def features(
        self, inputs: Float[Tensor, "example *shape"]
    ) -> Mapping[str, Float[Tensor, "example step 1"]]:
        of_speech = inputs.dim() == 2  # [example sample]
        steps = inputs.shape[1] // FRAME_SAMPLES if of_speech else 1
        return {"module_1": inputs.new_ones(len(inputs), steps, 1)}
