"""Deep InfoMax with its local objective: end to end, and module by module."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import (
    Batch,
    GradientFlow,
    Ingredients,
    Modality,
    Setup,
    Split,
    Traits,
)
from gim_bench.errors import ConfigError
from gim_bench.methods.stack import Encodings, StackLearner
from gim_bench.objectives.local_infomax import (
    LOCAL_INFOMAX,
    LocalInfoMaxHead,
    LocalInfoMaxSettings,
)
from gim_bench.settings.base import Settings


class GreedyDeepInfoMax(StackLearner):
    """Every module tells locations of an image from those of others by the mean over its own grid.

    No gradient passes between modules.

    Source: the local objective of Hjelm et al. 2019, section 3.2, at every module.
    """

    traits = Traits(
        objective=LOCAL_INFOMAX,
        gradient_flow=GradientFlow.ISOLATED,
        trains_on=Split.UNLABELLED,
        modalities=frozenset({Modality.IMAGE}),
    )

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        return self._head(local=module, summary=module, ingredients=ingredients)

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        (encodings,) = views
        return head(encodings.c, encodings.c.mean(dim=(1, 2), keepdim=True))

    def _head(self, *, local: int, summary: int, ingredients: Ingredients) -> nn.Module:
        """A head for locations of the module `local` and globals of the module `summary`."""
        assert isinstance(ingredients.objective, LocalInfoMaxSettings)
        return LocalInfoMaxHead(
            local_dim=self.encoder.dims[local],
            global_dim=self.encoder.dims[summary],
            settings=ingredients.objective,
        )


class DeepInfoMax(GreedyDeepInfoMax):
    """One loss at the top: global encodings tell the locations of their image from those of others.

    Source: Hjelm et al. 2019, section 3.2, with the infoNCE estimator.
    """

    traits = replace(GreedyDeepInfoMax.traits, gradient_flow=GradientFlow.END_TO_END)
    sees_lower_grids = True

    class Options(Settings):
        """The encodings that are global.

        "mean": the mean over the top grid, whose encodings are the locations. "top_grid", as
        published: all encodings of the top grid; those of the grid below are the locations.
        """

        globals: Literal["mean", "top_grid"] = "mean"

    @classmethod
    def check(cls, options: Settings, *, setup: Setup) -> None:
        """Globals from the top grid see more than the locations do. Raises: ConfigError."""
        assert isinstance(options, cls.Options)
        below, top = [0, *setup.rows][-2:]
        if options.globals == "top_grid" and below <= top:
            raise ConfigError(
                f'globals = "top_grid" needs a top grid that is smaller than the grid below; the '
                f"encoder {setup.encoder_options.kind!r} has {top} and {below} rows there: use "
                f'globals = "mean"'
            )

    def __init__(self, ingredients: Ingredients) -> None:
        assert isinstance(ingredients.options, self.Options)
        self.from_top_grid = ingredients.options.globals == "top_grid"
        super().__init__(ingredients)

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        local = module - 1 if self.from_top_grid else module
        return self._head(local=local, summary=module, ingredients=ingredients)

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        if not self.from_top_grid:
            return super().loss(head, views, batch)
        (encodings,) = views
        return head(encodings.lower[-1], encodings.c)
