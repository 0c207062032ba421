"""PredSim: local losses that match similarities and predict classes."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import cast

import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from gim_bench.contract import (
    Batch,
    Encoder,
    GradientFlow,
    Ingredients,
    Modality,
    Shape,
    Split,
    Traits,
    eval_mode,
)
from gim_bench.methods.stack import Encodings, StackLearner, module_name
from gim_bench.objectives.predsim import (
    PREDSIM,
    PredSimHead,
    PredSimSettings,
    Weight,
    Weights,
)
from gim_bench.settings.base import Settings


class PredSim(StackLearner):
    """Every module matches similarities of labels and classifies, on the labelled images only.

    Source: Nøkland and Eidnes 2019.
    """

    traits = Traits(
        objective=PREDSIM,
        gradient_flow=GradientFlow.ISOLATED,
        either_flow=True,
        trains_on=Split.TRAIN,
        modalities=frozenset({Modality.IMAGE}),
    )

    class Options(Settings):
        """Weights of the two halves: `sim` alone has prediction = 0, `pred` similarity = 0."""

        similarity: Weight = 0.99
        prediction: Weight = 0.01

        @model_validator(mode="after")
        def _has_a_loss(self) -> "PredSim.Options":
            if self.similarity == self.prediction == 0:
                raise ValueError(
                    "similarity = 0 and prediction = 0 leave no loss: set one of them above 0"
                )
            return self

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        options, objective = ingredients.options, ingredients.objective
        assert isinstance(options, self.Options)
        assert isinstance(objective, PredSimSettings)
        rows, columns = grid_of(self.encoder, module, shape=ingredients.shape)
        return PredSimHead(
            self.encoder.dims[module],
            rows=rows,
            columns=columns,
            target=ingredients.target,
            weights=Weights(similarity=options.similarity, prediction=options.prediction),
            decoder_dims=objective.decoder_dims,
        )

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        (encodings,) = views
        return head(encodings.c, batch.labels[self.target.name])

    @torch.no_grad()
    def predict(
        self, features: Mapping[str, Float[Tensor, "example step d"]]
    ) -> Float[Tensor, "example i class"] | None:
        """Class scores of the top module's classifier, if it reads what the probe reads."""
        top = module_name(len(self.encoder.stages) - 1)
        head = cast(PredSimHead, self.heads[top])
        if head.classifier is None or head.sides != (1, 1):
            return None
        with eval_mode(head):
            return head.classifier(features[top])


@torch.no_grad()
def grid_of(encoder: Encoder, module: int, *, shape: Shape) -> tuple[int, int]:
    """Rows and columns of the grid that a module (from 0) makes of an example of that shape."""
    with eval_mode(encoder):
        grid = next(islice(encoder.grids(torch.zeros(1, *shape)), module, None))
    _, rows, columns, _ = grid.shape
    return rows, columns
