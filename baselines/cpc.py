"""Contrastive predictive coding."""

from collections.abc import Sequence
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from gim_bench.contract import Batch, GradientFlow, Ingredients, Modality, Setup, Split, Traits
from gim_bench.encoders.pixelcnn import PixelCNN
from gim_bench.errors import ConfigError
from gim_bench.methods.info_nce import InfoNCEStack
from gim_bench.methods.stack import Encodings
from gim_bench.objectives.info_nce import INFO_NCE, InfoNCEHead
from gim_bench.settings.base import Settings


class ContrastivePredictiveCoding(InfoNCEStack):
    """One InfoNCE loss at the top, on an autoregressor's context, trains all modules end to end.

    On images this method adds a PixelCNN as the autoregressor. On speech the autoregressor is the
    GRU at the end of the encoder, as in GIM.

    Source: van den Oord et al. 2018; Löwe et al. 2019, Eq. 1 and section 4.1.
    """

    traits = Traits(
        objective=INFO_NCE,
        gradient_flow=GradientFlow.END_TO_END,
        trains_on=Split.UNLABELLED,
    )

    class Options(Settings):
        """The autoregressor: "auto" is a PixelCNN on images and the encoder's GRU on speech.

        On images, "none" predicts from z itself, as GIM does.
        """

        autoregressor: Literal["auto", "pixelcnn", "none"] = "auto"
        autoregressor_layers: Annotated[int, Field(gt=0)] = 4

    @classmethod
    def check(cls, options: Settings, *, setup: Setup) -> None:
        """Check that the setting suits the encoder. Raises: ConfigError."""
        super().check(options, setup=setup)
        assert isinstance(options, cls.Options)
        if setup.modality is Modality.SPEECH and options.autoregressor != "auto":
            raise ConfigError(
                f"method.cpc.autoregressor is {options.autoregressor!r}, which is for images: an "
                f"encoder of speech has its own GRU, so leave the setting out"
            )

    def head(self, module: int, ingredients: Ingredients) -> nn.Module:
        options = ingredients.options
        assert isinstance(options, self.Options)
        needed = options.autoregressor != "none" and not self.encoder.autoregressive
        dim = self.encoder.dims[module]
        return nn.ModuleDict(
            {
                "autoregressor": PixelCNN(dim, layers=options.autoregressor_layers)
                if needed
                else nn.Identity(),
                "info_nce": super().head(module, ingredients),
            }
        )

    def loss(self, head: nn.Module, views: Sequence[Encodings], batch: Batch) -> Float[Tensor, ""]:
        (encodings,) = views
        assert isinstance(head, nn.ModuleDict)
        info_nce = head["info_nce"]
        assert isinstance(info_nce, InfoNCEHead)
        return info_nce(encodings.z, head["autoregressor"](encodings.c))
