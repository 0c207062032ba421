"""Supervised training, module by module."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, GradientFlow, Ingredients, Modality, Setup, Split, Traits
from gim_bench.errors import ConfigError
from gim_bench.methods.cross_entropy import CrossEntropyStack
from gim_bench.methods.stack import Encodings
from gim_bench.objectives.auxiliary import Auxiliary, AuxiliaryHead
from gim_bench.objectives.cross_entropy import CROSS_ENTROPY
from gim_bench.settings.base import Settings


class GreedySupervised(CrossEntropyStack):
    """Every module has a classifier of its own; no gradient passes between modules.

    Source: Löwe et al. 2019, section 4.1; with an auxiliary network, Belilovsky et al. 2019 (DGL).
    """

    traits = Traits(
        objective=CROSS_ENTROPY,
        gradient_flow=GradientFlow.ISOLATED,
        trains_on=Split.TRAIN,
    )

    class Options(Settings):
        """The classifier of every module."""

        auxiliary: Auxiliary = Auxiliary.LINEAR

    @classmethod
    def check(cls, options: Settings, *, setup: Setup) -> None:
        """Auxiliary networks are convolutions over images."""
        assert isinstance(options, cls.Options)
        if options.auxiliary is not Auxiliary.LINEAR and setup.modality is not Modality.IMAGE:
            raise ConfigError(
                f"auxiliary = {options.auxiliary.value!r} is a network over images, and the "
                f"encoder {setup.encoder_options.kind!r} takes {setup.modality}: leave out "
                f"auxiliary"
            )

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        options = ingredients.options
        assert isinstance(options, self.Options)
        if options.auxiliary is Auxiliary.LINEAR:
            return super().head(module, ingredients)
        return AuxiliaryHead(
            self.encoder.dims[module],
            kind=options.auxiliary,
            is_top=module == len(self.encoder.stages) - 1,
            target=ingredients.target,
        )

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        if not isinstance(head, AuxiliaryHead):
            return super().loss(head, views, batch)
        (encodings,) = views
        return head(encodings.c, batch.labels[self.target.name])
