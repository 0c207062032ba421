"""Stacks trained by InfoNCE: GIM with isolated flow, CPC end to end."""

from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Ingredients
from gim_bench.methods.stack import Encodings, StackLearner
from gim_bench.objectives.info_nce import InfoNCEHead


class InfoNCEStack(StackLearner):
    """Every unit predicts encodings in the rows below: its own or, for a GRU, those it is given."""

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        return InfoNCEHead(
            z_dim=self.target_dim(module),
            c_dim=self.encoder.dims[module],
            settings=ingredients.info_nce,
            generator=ingredients.negatives,
        )

    def loss(self, head: nn.Module, encodings: Encodings, batch: Batch) -> Float[Tensor, ""]:
        return head(encodings.z, encodings.c)
