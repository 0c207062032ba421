"""Supervised training, end to end."""

from gim_bench.contract import GradientFlow, Split, Traits
from gim_bench.methods.cross_entropy import CrossEntropyStack
from gim_bench.objectives.cross_entropy import CROSS_ENTROPY


class Supervised(CrossEntropyStack):
    """One classifier at the top trains all modules end to end, on the labelled images only.

    Source: Löwe et al. 2019, section 4.1.
    """

    traits = Traits(
        objective=CROSS_ENTROPY,
        gradient_flow=GradientFlow.END_TO_END,
        trains_on=Split.TRAIN,
    )
