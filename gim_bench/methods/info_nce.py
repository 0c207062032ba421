"""Stacks trained by InfoNCE: GIM with isolated flow, CPC end to end."""

from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Ingredients
from gim_bench.methods.stack import StackLearner
from gim_bench.objectives.info_nce import InfoNCEHead


class InfoNCEStack(StackLearner):
    """Every unit predicts its own encodings in the rows below."""

    def head(self, dim: int, ingredients: Ingredients) -> nn.Module:
        return InfoNCEHead(dim, settings=ingredients.info_nce, generator=ingredients.negatives)

    def loss(
        self, head: nn.Module, z: Float[Tensor, "image row column d"], batch: Batch
    ) -> Float[Tensor, ""]:
        return head(z, z)
