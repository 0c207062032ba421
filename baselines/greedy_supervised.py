"""Supervised training, module by module."""

from gim_bench.contract import GradientFlow, Split, Traits
from gim_bench.methods.cross_entropy import CrossEntropyStack
from gim_bench.objectives.cross_entropy import CROSS_ENTROPY


class GreedySupervised(CrossEntropyStack):
    """Every module has a classifier of its own; no gradient passes between modules.

    Source: Löwe et al. 2019, section 4.1.
    """

    traits = Traits(
        objective=CROSS_ENTROPY,
        gradient_flow=GradientFlow.ISOLATED,
        trains_on=Split.TRAIN,
    )
