"""Features without a trained network: nothing has a loss, and no encoder is used."""

from collections.abc import Iterator, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from gim_bench.contract import Batch, GradientFlow, Ingredients, Learner, Modality, Split, Traits


class FixedFeatures(Learner):
    """A formula for the features of an example; subclasses give the formula.

    The learner has no losses and no units. Its `encoder` holds what was fitted to unlabelled
    examples, if anything was.
    """

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__()
        self.encoder: nn.Module = nn.Identity()

    def losses(
        self, batch: Batch, *, only: str | None = None
    ) -> Iterator[tuple[str, Float[Tensor, ""]]]:
        return iter(())

    def units(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {}


def fixed_traits(*modalities: Modality, trains_on: Split | None = None) -> Traits:
    """Traits of features that no gradient has shaped."""
    return Traits(
        objective=None,
        gradient_flow=GradientFlow.NONE,
        trains_on=trains_on,
        modalities=frozenset(modalities),
        ablation="fixed features in place of the encoder",
    )
