"""The encoder as it was initialised."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, GradientFlow, Ingredients, Traits
from gim_bench.methods.stack import Encodings, StackLearner


class RandomInit(StackLearner):
    """The untrained encoder, from which the other methods of the seed start.

    Source: Löwe et al. 2019, section 4.1.
    """

    traits = Traits(objective=None, gradient_flow=GradientFlow.NONE, trains_on=None)

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        raise AssertionError("without units there are no heads")

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        raise AssertionError("without units there are no losses")
