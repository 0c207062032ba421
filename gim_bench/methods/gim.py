"""Greedy InfoMax."""

from dataclasses import replace

from gim_bench.contract import GradientFlow, Split, Traits
from gim_bench.methods.info_nce import InfoNCEStack
from gim_bench.objectives.info_nce import INFO_NCE
from gim_bench.settings.schema import Schedule


class GreedyInfoMax(InfoNCEStack):
    """Every module maximises InfoNCE on its own encodings; no gradient passes between modules.

    Source: Löwe et al. 2019, section 3.
    """

    traits = Traits(
        objective=INFO_NCE,
        gradient_flow=GradientFlow.ISOLATED,
        trains_on=Split.UNLABELLED,
        either_flow=True,
    )


class IterativeGreedyInfoMax(GreedyInfoMax):
    """GIM whose modules are trained one after the other, each on top of finished, frozen ones.

    Source: Löwe et al. 2019, section 4.1 and Figure 3 ("iteratively").
    """

    traits = replace(GreedyInfoMax.traits, schedule=Schedule.SEQUENTIAL)
