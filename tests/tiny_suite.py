"""Suites whose cells take a fraction of a second, and learners that misbehave."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from gim_bench import registry
from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.resolve import cells, configs
from gim_bench.contract import (
    Batch,
    Dataset,
    GradientFlow,
    Ingredients,
    Learner,
    Modality,
    Recordings,
    Split,
    Target,
    Traits,
    label_frames,
)
from gim_bench.datasets.images.photos import Photos
from gim_bench.methods.gim import GreedyInfoMax
from gim_bench.progress import Progress, Silence
from gim_bench.settings.augmentations import FRAME_SAMPLES
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import Suite
from gim_bench.settings.suites import load_suite

CPU = torch.device("cpu")

# 16 photographs, so 48 unlabelled images (2 steps an epoch and 8 left over), 32 labelled ones
# (1 step and 12 left over) and 16 to test on.
TOML = """
name = "tiny"
summary = "A cell in a fraction of a second"
protocol = "for the tests alone"
methods = ["gim", "random_init"]

[dataset]
name = "photos"
size = 26
stripes = 4
unlabelled_crops = 3
train_crops = 2
test_crops = 1

[encoder]
kind = "resnet"
width = 2
blocks = [1, 1]
patch_size = 8
patch_overlap = 4

[augmentation]
kind = "crop"
crop = 24
mean = [0.4]
std = [0.2]

[info_nce]
prediction_steps = 2
negatives = 4

[training]
epochs = 1
batch_size = 20
learning_rate = 1e-3

[probe]
learning_rates = [1e-3, 1e-1]
steps = 4
batch_size = 16
neighbours = 3
"""


# 12 unlabelled recordings (3 steps an epoch), 9 labelled ones (2 steps and one left over).
SPEECH_TOML = """
name = "tiny-speech"
summary = "Noise for speech"
protocol = "for the tests alone"
methods = ["gim", "random_init"]

[dataset]
name = "noise"

[encoder]
kind = "conv_gru"
width = 4
context = 3

[augmentation]
kind = "window"
samples = 3200
mean = 0.0
std = 0.1

[info_nce]
prediction_steps = 3
skip_rows = 0
negatives = 4
anchor_rows = 8

[training]
epochs = 1
batch_size = 4
learning_rate = 1e-3

[probe]
learning_rates = [1e-3, 1e-1]
steps = 4
batch_size = 64
neighbours = 3
fitted_steps = 100
"""


def tiny_suite(folder: Path, *overrides: str, toml: str = TOML) -> Suite:
    path = folder / "tiny.toml"
    path.write_text(toml)
    return load_suite(str(path), overrides=overrides)


def tiny_bench(suite: Suite, *, progress: Progress | None = None) -> Bench:
    kind: type[Dataset] = {"photos": Photos, "noise": Noise}[suite.dataset.name]
    options = kind.Options(**suite.dataset.options)
    dataset = kind(options=options, data_dir=None, cache_dir=Path("unused"))
    # Points of a cell under way are due after ten seconds: on a busy machine, in any test.
    never = float("inf")
    return Bench(dataset, device=CPU, progress=progress or Silence(), live_seconds=never)


def tiny_cell(suite: Suite, method: str, *, seed: int = 0, data_sha256: str = "0" * 64) -> Cell:
    configured = configs(suite, methods=[method], device=CPU)
    return cells(suite, configured, seeds=[seed], data_sha256=data_sha256)[0]


class Noise(Dataset):
    """Three speakers who hiss four phones, each louder than the one before.

    Recordings are of many lengths, all splits' in one array. Some are shorter than the window of
    the tiny suite, one has a single label, one none, and one is just as long as the window.
    """

    LENGTHS = (4800, 2000, 3200, 9999, 400, 5123, 399)
    RECORDINGS: ClassVar = {Split.UNLABELLED: 12, Split.TRAIN: 9, Split.TEST: 6}

    class Options(Settings):
        phones: bool = True

    modality = Modality.SPEECH

    def prepare(self) -> None: ...

    def verify(self) -> None: ...

    def fingerprint(self) -> str:
        return "0" * 64

    def targets(self) -> list[Target]:
        speakers = Target(name="speaker", classes=("ann", "ben", "cat"))
        phones = Target(name="phone", classes=("a", "e", "i", "o"), per_step=True)
        return [speakers, phones] if self.options.phones else [speakers]

    @cached_property
    def _recordings(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(samples, phones) of all recordings; every speaker speaks every third of them."""
        draw = np.random.default_rng(0)
        found = []
        for number in range(sum(self.RECORDINGS.values())):
            length = self.LENGTHS[number % len(self.LENGTHS)]
            phones = draw.integers(-1, 4, label_frames(length), dtype=np.int16)
            loudness = np.full(length, 1.0)
            for frame, phone in enumerate(phones):
                loudness[frame * FRAME_SAMPLES + 120 :] = phone + 2
            hiss = draw.normal(0, 400 * (1 + number % 3), length) * loudness
            found.append((hiss.clip(-(2**15), 2**15 - 1).astype(np.int16), phones))
        return found

    @cached_property
    def _samples(self) -> np.ndarray:
        return np.concatenate([samples for samples, _ in self._recordings])

    def split(self, split: Split) -> Recordings:
        lengths = np.array([len(samples) for samples, _ in self._recordings])
        first = sum(count for other, count in self.RECORDINGS.items() if other < split)
        chosen = np.arange(first, first + self.RECORDINGS[split])
        labelled = split is not Split.UNLABELLED
        phones = np.concatenate([self._recordings[i][1] for i in chosen])
        return Recordings(
            samples=self._samples,
            starts=(lengths.cumsum() - lengths)[chosen],
            lengths=lengths[chosen],
            labels={"speaker": chosen % 3} if labelled else {},
            frames={"phone": phones} if labelled and self.options.phones else {},
        )


@contextmanager
def noise_registered() -> Iterator[None]:
    """Within the block, suites may name the data set "noise"."""
    table = {**registry.datasets(), "noise": "tests.tiny_suite:Noise"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "datasets", lambda: table)
        yield


class Broken(GreedyInfoMax):
    """Fails with an error that nobody foresaw."""

    def losses(self, batch: Batch):
        raise RuntimeError("the forward pass fell over\nin a second line")
        yield


class Unprintable(GreedyInfoMax):
    """Fails at a file whose name is no text, and tells it in colour."""

    def losses(self, batch: Batch):
        raise RuntimeError("no file \x1b[31mcaf\udce9.jpg")
        yield


class Diverging(GreedyInfoMax):
    """Its second module's loss is not a number."""

    def losses(self, batch: Batch):
        for unit, loss in super().losses(batch):
            yield unit, loss * float("nan") if unit == "module_2" else loss


class Interrupted(GreedyInfoMax):
    """Somebody presses Ctrl-C in its first step."""

    def losses(self, batch: Batch):
        raise KeyboardInterrupt
        yield


class Observed(GreedyInfoMax):
    """Keeps what it was built from."""

    def __init__(self, ingredients: Ingredients) -> None:
        super().__init__(ingredients)
        self.ingredients = ingredients


MISBEHAVING = {
    name: f"tests.tiny_suite:{name.capitalize()}"
    for name in ("broken", "diverging", "interrupted", "unprintable")
}


class Scripted(Learner):
    """Two units of one weight each, whose losses are the weight times what the script says."""

    traits = Traits(objective=None, gradient_flow=GradientFlow.ISOLATED, trains_on=Split.UNLABELLED)

    def __init__(self, script=lambda unit, step: 1.0) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterDict(
            {unit: torch.nn.Parameter(torch.ones(())) for unit in ("module_1", "module_2")}
        )
        self.script = script
        self.step = 0

    def losses(self, batch: Batch):
        self.step += 1
        for unit, weight in self.weights.items():
            yield unit, weight * self.script(unit, self.step)

    def units(self):
        return {unit: [weight] for unit, weight in self.weights.items()}

    def features(self, inputs):
        return {"module_1": inputs.flatten(1).unsqueeze(1)}
