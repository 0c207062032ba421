"""Log power spectrum."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from baselines.fixed_features import FixedFeatures, fixed_traits
from gim_bench.contract import Ingredients, Modality
from gim_bench.settings.base import PositiveInt, Settings

# Added to the power before the logarithm; white noise of the suite's deviation has power 1.
FLOOR = 1e-5


class PowerSpectrum(FixedFeatures):
    """Logarithm of the power of an image at low frequencies: amplitudes without phases."""

    traits = fixed_traits(Modality.IMAGE)

    class Options(Settings):
        """Cycles across the image, 0 to `frequencies` - 1 in each direction."""

        frequencies: PositiveInt = 9

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__(ingredients)
        assert isinstance(ingredients.options, self.Options)
        self.frequencies = ingredients.options.frequencies

    @torch.no_grad()
    def features(
        self, inputs: Float[Tensor, "image channel height width"]
    ) -> Mapping[str, Float[Tensor, "image 1 d"]]:
        """Both signs of vertical frequencies; of a real image the other half repeats these."""
        height, width = inputs.shape[-2:]
        centred = inputs - inputs.mean(dim=(2, 3), keepdim=True)
        power = torch.fft.rfft2(centred).abs().square() / (height * width)
        rows = min(self.frequencies, height // 2 + 1)
        vertical = torch.arange(1 - rows, rows, device=inputs.device).remainder(height).unique()
        low = power[:, :, vertical, : self.frequencies]
        return {"module_1": (low + FLOOR).log().flatten(1).unsqueeze(1)}
