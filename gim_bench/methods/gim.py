"""Greedy InfoMax."""

from gim_bench.contract import GradientFlow, Split, Traits
from gim_bench.methods.info_nce import InfoNCEStack


class GreedyInfoMax(InfoNCEStack):
    """Every module maximises InfoNCE on its own encodings; no gradient passes between modules.

    Source: Löwe et al. 2019, section 3.
    """

    traits = Traits(
        objective="info_nce",
        gradient_flow=GradientFlow.ISOLATED,
        trains_on=Split.UNLABELLED,
    )
