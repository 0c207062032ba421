"""Stacks that predict the rows below: GIM, CPC and CLAPP, each with a loss of its own."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Ingredients, Modality, Setup
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import Encodings, StackLearner, module_name
from gim_bench.objectives.prediction import PredictionHead, PredictionSettings
from gim_bench.settings.base import Settings


class PredictionStack(StackLearner):
    """Every unit predicts encodings in the rows below: its own or, for a GRU, those it is given."""

    predicts_with: ClassVar[type[PredictionHead]]
    table: ClassVar[str]  # of a suite, which holds the settings of the objective

    @classmethod
    def check(cls, options: Settings, *, setup: Setup) -> None:
        """Every module needs as many rows below each other as the objective predicts."""
        task, rows = setup.objective, min(setup.rows)
        assert isinstance(task, PredictionSettings)
        if rows >= task.rows:
            return
        if setup.modality is Modality.IMAGE:
            given, setting = f"a crop of {setup.shape[-1]} pixels gives {rows} rows", "crop"
        else:
            given, setting = f"a window of {setup.shape[-1]} samples gives {rows} steps", "samples"
        raise ConfigError(
            f"{given} in {module_name(setup.rows.index(rows))}, but predicting "
            f"{task.prediction_steps} steps past {task.skip_rows} skipped row(s) needs "
            f"{task.rows}: enlarge augmentation.{setting} or lower {cls.table}.prediction_steps"
        )

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        assert isinstance(ingredients.objective, PredictionSettings)
        return self.predicts_with(
            z_dim=self.target_dim(module),
            c_dim=self.encoder.dims[module],
            settings=ingredients.objective,
            generator=self.streams[module_name(module)],
        )

    def uninformed_losses(self) -> Mapping[str, float]:
        # A head may hold an autoregressor beside the predictors.
        return {
            name: part.uninformed_loss
            for name, head in self.heads.items()
            for part in head.modules()
            if isinstance(part, PredictionHead)
        }

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        (encodings,) = views
        return head(encodings.z, encodings.c)
