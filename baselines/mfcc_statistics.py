"""Statistics of cepstral coefficients around every step."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from baselines.mfcc import MFCC
from gim_bench.contract import Ingredients
from gim_bench.settings.base import PositiveInt


class MFCCStatistics(MFCC):
    """MFCC of a step, with their mean and standard deviation over the steps around it.

    A probe of speakers reads the mean of these features over a window. At the ends of a window the
    statistics are of the steps that lie within.
    """

    class Options(MFCC.Options):
        """Beside those of `mfcc`: how many steps on each side of a step its statistics cover."""

        context: PositiveInt = 5

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__(ingredients)
        assert isinstance(ingredients.options, self.Options)
        self.context = ingredients.options.context

    @torch.no_grad()
    def features(
        self, inputs: Float[Tensor, "example sample"]
    ) -> Mapping[str, Float[Tensor, "example step d"]]:
        (coefficients,) = super().features(inputs).values()
        # Centred on the window first: a mean of squares less a squared mean cancels digits.
        offset = coefficients.mean(dim=1, keepdim=True)
        centred = coefficients - offset
        mean = self._around(centred)
        variance = self._around(centred.square()) - mean.square()
        found = [coefficients, mean + offset, variance.clamp(min=0).sqrt()]
        return {"module_1": torch.cat(found, dim=2)}

    def _around(self, values: Float[Tensor, "example step d"]) -> Float[Tensor, "example step d"]:
        """The mean over the steps around each step."""
        means = F.avg_pool1d(
            values.transpose(1, 2),
            kernel_size=2 * self.context + 1,
            stride=1,
            padding=self.context,
            count_include_pad=False,
        )
        return means.transpose(1, 2)
