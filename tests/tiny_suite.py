"""A suite whose cells take a fraction of a second, and learners that misbehave."""

from pathlib import Path

import torch

from gim_bench.config import Suite, load_suite
from gim_bench.contract import (
    Batch,
    GradientFlow,
    Ingredients,
    Learner,
    Progress,
    Silence,
    Split,
    Traits,
)
from gim_bench.datasets.photos import Photos
from gim_bench.methods.gim import GreedyInfoMax
from gim_bench.plan import cells, configs
from gim_bench.run import Bench, Cell

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
width = 2
blocks = [1, 1]
patch_size = 8
patch_overlap = 4

[augmentation]
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
epochs = 2
batch_size = 16
neighbours = 3
"""


def tiny_suite(folder: Path, *overrides: str) -> Suite:
    path = folder / "tiny.toml"
    path.write_text(TOML)
    return load_suite(str(path), overrides=overrides)


def tiny_bench(suite: Suite, *, progress: Progress | None = None) -> Bench:
    options = Photos.Options(**suite.dataset.options)
    dataset = Photos(options=options, data_dir=None, cache_dir=Path("unused"))
    return Bench(dataset, device=CPU, progress=progress or Silence())


def tiny_cell(suite: Suite, method: str, *, seed: int = 0, data_sha256: str = "0" * 64) -> Cell:
    configured = configs(suite, methods=[method], device=CPU)
    return cells(suite, configured, seeds=seed + 1, data_sha256=data_sha256)[seed]


class Broken(GreedyInfoMax):
    """Fails with an error that nobody foresaw."""

    def losses(self, batch: Batch):
        raise RuntimeError("the forward pass fell over\nin a second line")
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
    name: f"tests.tiny_suite:{name.capitalize()}" for name in ("broken", "diverging", "interrupted")
}


class Scripted(Learner):
    """Two units of one weight each, whose losses are the weight times what the script says."""

    traits = Traits(
        objective="none", gradient_flow=GradientFlow.ISOLATED, trains_on=Split.UNLABELLED
    )

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
        return {"module_1": inputs.flatten(1)}
