"""CLAPP: GIM with a hinge loss of one true or one false prediction in the place of InfoNCE."""

from gim_bench.contract import GradientFlow, Split, Traits
from gim_bench.methods.prediction import PredictionStack
from gim_bench.objectives.hinge import HINGE, HingeHead


class CLAPP(PredictionStack):
    """Every module tells what follows in an image from what another image has in its place.

    With the other gradient flow this is the paper's Hinge Loss CPC. The prediction weights W serve
    forward and backward; the paper's rule that learns weights for feedback apart is left out.

    Source: Illing et al. 2021, "Local plasticity rules can learn deep representations using
    self-supervised contrastive predictions", Eqs. 2 and 3.
    """

    traits = Traits(
        objective=HINGE,
        gradient_flow=GradientFlow.ISOLATED,
        trains_on=Split.UNLABELLED,
        either_flow=True,
    )
    predicts_with = HingeHead
    table = f"objective.{HINGE.name}"
