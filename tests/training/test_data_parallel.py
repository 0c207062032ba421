"""Processes that share a batch: their losses and weights are those of one process."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from gim_bench import registry
from gim_bench.contract import UNLABELLED, Images, Modality, Recordings
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.datasets.speech.windows import WindowBatches
from gim_bench.encoders.batch_norm_resnet import BatchNormResNet
from gim_bench.encoders.resnet import ResNetEncoder
from gim_bench.encoders.vgg8b import VGG8b
from gim_bench.errors import ConfigError
from gim_bench.hardware import process_group
from gim_bench.settings.augmentations import CropSettings, WindowSettings
from gim_bench.settings.base import Precision
from gim_bench.settings.schema import Schedule
from gim_bench.testing.cases import TINY, encoder_case, method_cases
from gim_bench.training.data_parallel import AveragingTrainer
from gim_bench.training.trainer import Trainer
from tests import forked

CPU = torch.device("cpu")
SPEECH = TINY[Modality.SPEECH]
# A grid of 4×4 patches.
RESNET = {"width": 2, "blocks": (1, 1), "patch_size": 8, "patch_overlap": 4}
IMAGES = encoder_case(ResNetEncoder, options=RESNET, shape=(1, 20, 20))
NORMED = encoder_case(BatchNormResNet, options={"depth": 18, "width": 2}, shape=(1, 16, 16))
DROPLESS = encoder_case(
    VGG8b, options={"width": 2, "hidden": 4, "stem": "3x3", "dropout": 0.0}, shape=(1, 16, 16)
)
TASK = {"prediction_steps": 2, "negatives": 4}
PROJECTOR = {"pooling": "conv", "projector": (8, 8)}
LONG = ("gim, negatives within a process", "cpc", "barlow_twins, block by block")


def case(method, on, *, flow=0, options=None, **objective):
    """(case, keyword arguments of the trainer); `flow` 1 is the other gradient flow."""
    kind = registry.method(method)
    found = method_cases(
        kind, name=method, encoders=[on], options=options or {}, objective=objective
    )
    return found[flow if kind.traits.either_flow else 0]


CASES = {
    "gim, negatives within a process": lambda: case("gim", IMAGES, **TASK, negatives_within=2),
    "gim, negatives within several processes": lambda: case(
        "gim", IMAGES, **TASK, negatives_within=4
    ),
    "gim, negatives of targets": lambda: case(
        "gim", IMAGES, prediction_steps=1, skip_rows=0, anchor_rows=2, negatives_from="targets"
    ),
    "cpc": lambda: case("cpc", IMAGES, **TASK),
    "gim on speech": lambda: case(
        "gim", SPEECH, **TASK, skip_rows=0, anchor_rows=5, negatives_from="permutations"
    ),
    "barlow_twins": lambda: case("barlow_twins", NORMED, options=PROJECTOR),
    "barlow_twins, block by block": lambda: case("barlow_twins", NORMED, flow=1, options=PROJECTOR),
    "clapp": lambda: case("clapp", IMAGES, prediction_steps=2),
    "predsim": lambda: case("predsim", DROPLESS),
    "greedy_supervised": lambda: case("greedy_supervised", NORMED, options={"auxiliary": "mlp"}),
    "deep_infomax": lambda: case("deep_infomax", IMAGES, mi_units=8),
}


def own_examples(batch):
    """The examples of this process."""
    own = process_group.own(len(batch.inputs))
    labels = {target: found[own] for target, found in batch.labels.items()}
    further = tuple(view[own] for view in batch.further)
    return replace(batch, inputs=batch.inputs[own], labels=labels, further=further)


def trained(name, *, shared):
    """(losses of every step and of an evaluation, state) of a training of the case in float64."""
    made = CASES[name]()
    batch = made.batch()
    # The examples of one process have fewer labels than those of another.
    labels = {target: found.clone() for target, found in batch.labels.items()}
    for of_target in labels.values():
        of_target[:3] = UNLABELLED if "supervised" in name else of_target[:3]
    batch = replace(batch, labels=labels)
    trainer = (AveragingTrainer if shared else Trainer)(
        made.build().learner,
        learning_rate=1e-2,
        schedule=Schedule.JOINT if name == "cpc" else Schedule.INTERLEAVED,
        precision=Precision.FP32,
        device=CPU,
    )
    if shared:
        trainer.synchronise()
        batch = own_examples(batch)
    trainer.learner.train()
    losses = [
        {unit: float(loss) for unit, loss in trainer.step(batch).items()}
        for _ in range(20 if name in LONG else 2)
    ]
    return [*losses, trainer.evaluate([batch])], trainer.learner.state_dict()


# Every transform of images, each for some of them.
TRANSFORMED = {
    "kind": "crop",
    "crop": 16,
    "grayscale": False,
    "mean": (0.5,) * 3,
    "std": (0.3,) * 3,
    "resized": {},
    "jitter": {},
    "gray": 0.5,
    "blur": {"kernel": 3, "probability": 0.5},
    "solarise": {"probability": 0.5},
    "cutout": 4,
    "further_views": ({"resized": None, "cutout": 2},),
}


def epochs():
    """The views and labels of two batches of images and of two batches of speech."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (17, 3, 20, 20), dtype=np.uint8)
    options = {"batch_size": 8, "stream": ("random", 0), "device": CPU, "views": 2}
    images = ImageBatches(
        Images(images=pixels, labels={"class": np.arange(17)}),
        augmentation=CropSettings(**TRANSFORMED),
        **options,
    )
    speech = WindowBatches(
        Recordings(
            samples=draw.integers(-99, 99, 20_000, dtype=np.int16),
            starts=np.arange(17) * 1000,
            lengths=np.full(17, 1000),
            labels={"speaker": np.arange(17)},
            frames={},
        ),
        augmentation=WindowSettings(kind="window", samples=320, mean=0.0, std=1.0),
        **options,
    )
    return [
        (*batch.views, *batch.labels.values())
        for batches in (images, speech)
        for batch in (*batches.epoch(1),)
    ]


def train_all(number, processes, meeting, names, answers):
    """Train the cases as one of the processes."""
    torch.set_num_threads(1)
    with process_group.joined(meeting, number=number, processes=processes, device=CPU):
        found = {name: trained(name, shared=True) for name in names}
        found["epochs"] = epochs()
    torch.save(found, f"{answers}-{number}")


@pytest.fixture(scope="module", params=[2, 4])
def processes(request, tmp_path_factory):
    """Losses and states of all processes that share the batches of every case."""
    count, folder = request.param, tmp_path_factory.mktemp("processes")
    names = [name for name in CASES if "speech" not in name or count == 2]  # six windows
    meeting = process_group.FileMeeting(path=folder / "meeting")
    forked.start()
    started = [
        forked.FORKED.Process(
            target=train_all, args=(number, count, meeting, names, folder / "answer")
        )
        for number in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0] * count
    return [torch.load(folder / f"answer-{rank}") for rank in range(count)]


_alone = {}


def alone(name):
    if name not in _alone:
        _alone[name] = trained(name, shared=False)
    return _alone[name]


@pytest.mark.parametrize("name", CASES)
def test_processes_that_share_a_batch_train_as_one_process(name, processes):
    """The mean of their losses is its loss at every step and in evaluation, and so are weights.

    All of them have the same weights and running statistics, and draw the same.
    """
    if name not in processes[0]:
        pytest.skip("four processes cannot share six windows")
    losses, state = alone(name)
    of_each = [found[name][0] for found in processes]
    for step, expected in enumerate(losses):
        for unit, loss in expected.items():
            mean = sum(found[step][unit] for found in of_each) / len(of_each)
            assert mean == pytest.approx(loss, rel=1e-6), (step, unit)
    for found in processes:
        for key, values in found[name][1].items():
            torch.testing.assert_close(values, state[key], rtol=1e-6, atol=1e-6, msg=key)
            assert torch.equal(values, processes[0][name][1][key]), key


def test_processes_have_the_parts_of_the_batches_of_one_process(processes):
    """Drawn for all examples, and augmented for one's own."""
    whole = epochs()
    assert len(whole) == 4
    for number, batch in enumerate(whole):
        for position, expected in enumerate(batch):
            parts = [found["epochs"][number][position] for found in processes]
            torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-6, atol=1e-6)


class Halved(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) / 2


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")], ids=str)
def test_a_batch_norm_of_a_class_of_its_own_is_refused(device):
    module = nn.Sequential(nn.BatchNorm1d(3), Halved(3))
    with pytest.raises(ConfigError, match=r"cannot synchronise the batch norm Halved: set train"):
        process_group.synchronised(module, device=device)
    assert [type(layer) for layer in module] == [nn.BatchNorm1d, Halved]


def test_batch_norm_of_one_process_is_that_of_pytorch():
    """Out of a group, the whole batch is one's own: forward, backward, running statistics."""
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs, ours = nn.BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    process_group.synchronised(ours, device=CPU)
    gradients = []
    for norm in (theirs, ours):
        given = x.clone().requires_grad_()
        norm(given).square().mul(x).sum().backward()
        gradients.append(given.grad)
    assert type(ours) is not type(theirs)
    torch.testing.assert_close(*gradients)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, values in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], values)
