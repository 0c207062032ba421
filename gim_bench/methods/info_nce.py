"""Stacks trained by InfoNCE: GIM with isolated flow, CPC end to end."""

from gim_bench.methods.prediction import PredictionStack
from gim_bench.objectives.info_nce import INFO_NCE, InfoNCEHead


class InfoNCEStack(PredictionStack):
    """Every unit tells the encodings that it predicts from others of the batch."""

    predicts_with = InfoNCEHead
    table = INFO_NCE.name
    shares_losses = True
