"""Stacks trained by cross-entropy: supervised end to end, greedy supervised with isolated flow."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Ingredients
from gim_bench.methods.stack import StackLearner
from gim_bench.objectives.cross_entropy import CrossEntropyHead


class CrossEntropyStack(StackLearner):
    """Every unit classifies the image from the mean of its own encodings."""

    def head(self, dim: int, ingredients: Ingredients) -> nn.Module:
        return CrossEntropyHead(dim, classes=ingredients.classes)

    def loss(
        self, head: nn.Module, z: Float[Tensor, "image row column d"], batch: Batch
    ) -> Float[Tensor, ""]:
        assert batch.labels is not None, "a supervised method was given unlabelled images"
        return head(z, batch.labels)

    @torch.no_grad()
    def predict(
        self, inputs: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image class"]:
        *_, z = self._encodings(inputs)
        head = self.heads[self.partition[-1].name]
        assert isinstance(head, CrossEntropyHead)
        return head.logits(z)
