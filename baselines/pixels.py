"""Raw pixels."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from baselines.fixed_features import FixedFeatures, fixed_traits
from gim_bench.contract import Modality


class Pixels(FixedFeatures):
    """The pixels of the crop as they are; nearest neighbours on pixels are the classic baseline."""

    traits = fixed_traits(Modality.IMAGE)

    def features(
        self, inputs: Float[Tensor, "image channel height width"]
    ) -> Mapping[str, Float[Tensor, "image 1 d"]]:
        return {"module_1": inputs.detach().flatten(1).unsqueeze(1)}
