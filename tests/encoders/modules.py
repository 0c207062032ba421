"""What the tests of all encoders ask of their modules."""

from torch import Tensor

from gim_bench.contract import Encoder


def parameters_of(encoder: Encoder) -> list[int]:
    """Number of parameters of every module."""
    return [sum(p.numel() for p in stage.parameters()) for stage in encoder.stages]


def activations_of(encoder: Encoder, inputs: Tensor) -> list[Tensor]:
    """Activations at the top of every module."""
    found = [encoder.prepare(inputs)]
    for stage in encoder.stages:
        found.append(stage(found[-1]))
    return found[1:]
