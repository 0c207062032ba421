"""Stacks trained by InfoNCE: GIM with isolated flow, CPC end to end."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, Ingredients, Modality, Setup
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import Encodings, StackLearner, module_name
from gim_bench.objectives.info_nce import InfoNCEHead, InfoNCESettings
from gim_bench.settings.base import Settings


class InfoNCEStack(StackLearner):
    """Every unit predicts encodings in the rows below: its own or, for a GRU, those it is given."""

    @classmethod
    def check(cls, options: Settings, *, setup: Setup) -> None:
        """Every module needs as many rows below each other as InfoNCE predicts."""
        info_nce, rows = setup.objective, min(setup.rows)
        assert isinstance(info_nce, InfoNCESettings)
        if rows >= info_nce.rows:
            return
        if setup.modality is Modality.IMAGE:
            given, setting = f"a crop of {setup.shape[-1]} pixels gives {rows} rows", "crop"
        else:
            given, setting = f"a window of {setup.shape[-1]} samples gives {rows} steps", "samples"
        raise ConfigError(
            f"{given} in {module_name(setup.rows.index(rows))}, but predicting "
            f"{info_nce.prediction_steps} steps past {info_nce.skip_rows} skipped row(s) needs "
            f"{info_nce.rows}: enlarge augmentation.{setting} or lower info_nce.prediction_steps"
        )

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        assert isinstance(ingredients.objective, InfoNCESettings)
        return InfoNCEHead(
            z_dim=self.target_dim(module),
            c_dim=self.encoder.dims[module],
            settings=ingredients.objective,
            generator=ingredients.generator,
        )

    def uninformed_losses(self) -> Mapping[str, float]:
        # A head may hold an autoregressor beside InfoNCE's own.
        return {
            name: part.uninformed_loss
            for name, head in self.heads.items()
            for part in head.modules()
            if isinstance(part, InfoNCEHead)
        }

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        (encodings,) = views
        return head(encodings.z, encodings.c)
