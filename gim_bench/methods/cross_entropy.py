"""Stacks trained by cross-entropy: supervised end to end, greedy supervised with isolated flow."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Ingredients, eval_mode
from gim_bench.methods.stack import Encodings, StackLearner, module_name
from gim_bench.objectives.cross_entropy import CrossEntropyHead


class CrossEntropyStack(StackLearner):
    """Every unit classifies by what the probe reads of its own encodings."""

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        return CrossEntropyHead(self.encoder.dims[module], target=ingredients.target)

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        (encodings,) = views
        assert self.target.name in batch.labels, "a supervised method was given unlabelled examples"
        steps = self.encoder.steps(encodings.c, module=encodings.module)
        return head(steps, batch.labels[self.target.name])

    @torch.no_grad()
    def predict(
        self, features: Mapping[str, Float[Tensor, "example step d"]]
    ) -> Float[Tensor, "example i class"] | None:
        """Class scores of the top classifier; None if it reads more than the probe's features."""
        top = module_name(len(self.encoder.stages) - 1)
        head = self.heads[top]
        if not isinstance(head, CrossEntropyHead):
            return None
        with eval_mode(head):
            return head.logits(features[top])
