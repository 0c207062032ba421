"""Learners and batches at the paper's sizes: gray 64×64 images, windows of 20,480 samples."""

import torch
from torch import Tensor

from gim_bench import registry, seeding
from gim_bench.contract import Learner, Modality
from gim_bench.encoders.conv_gru import ConvGRUEncoder
from gim_bench.encoders.resnet import ResNetEncoder
from gim_bench.hardware import devices
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.settings.schema import Precision
from gim_bench.testing.cases import encoder_case, method_cases

CPU = torch.device("cpu")
PRECISION = devices.resolve_precision(Precision.AUTO, CPU)
ENCODERS = {
    Modality.IMAGE: encoder_case(ResNetEncoder, options={}, shape=(1, 64, 64)),
    Modality.SPEECH: encoder_case(ConvGRUEncoder, options={}, shape=(20_480,)),
}
INFO_NCE = {
    Modality.IMAGE: InfoNCESettings(),
    Modality.SPEECH: InfoNCESettings(
        prediction_steps=12, skip_rows=0, negatives=10, anchor_rows=128
    ),
}


def learner(name: str, modality: Modality) -> Learner:
    """A method's learner in fp32 with InfoNCE, built as a cell builds it."""
    case, *_ = method_cases(
        registry.method(name),
        name=name,
        encoders=[ENCODERS[modality]],
        options={},
        objective=INFO_NCE[modality].model_dump(),
    )
    return case.build(dtype=torch.float32).learner


def inputs(number: int, modality: Modality) -> Tensor:
    """Noise in the shape of `number` examples."""
    draw = seeding.generator("benchmarks", modality)
    return torch.randn(number, *ENCODERS[modality].shape, generator=draw)
