"""Stacks trained by InfoNCE: GIM with isolated flow, CPC end to end."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Ingredients, Setup
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import Encodings, StackLearner
from gim_bench.objectives.info_nce import InfoNCEHead, InfoNCESettings
from gim_bench.settings.base import Settings


class InfoNCEStack(StackLearner):
    """Every unit predicts encodings in the rows below: its own or, for a GRU, those it is given."""

    @classmethod
    def check(cls, options: Settings, *, setup: Setup) -> None:
        """Every module needs as many rows below each other as InfoNCE predicts."""
        info_nce = setup.objective
        assert isinstance(info_nce, InfoNCESettings)
        if min(setup.rows) < info_nce.rows:
            steps, skipped = info_nce.prediction_steps, info_nce.skip_rows
            raise ConfigError(
                f"an example of shape {'×'.join(map(str, setup.shape))} gives a module "
                f"{min(setup.rows)} rows, but predicting {steps} steps past {skipped} skipped "
                f"row(s) needs {info_nce.rows}: enlarge what the augmentation gives "
                f"(augmentation.crop, augmentation.samples) or lower info_nce.prediction_steps"
            )

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        assert isinstance(ingredients.objective, InfoNCESettings)
        return InfoNCEHead(
            z_dim=self.target_dim(module),
            c_dim=self.encoder.dims[module],
            settings=ingredients.objective,
            generator=ingredients.generator,
        )

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        (encodings,) = views
        return head(encodings.z, encodings.c)
