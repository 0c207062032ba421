"""Learners and batches as cells build them, from the settings of shipped suites."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.case import Setting
from gim_bench import seeding
from gim_bench.cells.bench import Bench
from gim_bench.cells.build import build, trainer_of
from gim_bench.cells.cell import Cell
from gim_bench.cells.resolve import cells, configs, dataset_of
from gim_bench.contract import Batch, Recordings, Split, Target
from gim_bench.datasets.batches import Batches
from gim_bench.datasets.images.random_images import RandomImages
from gim_bench.datasets.speech.windows import WindowBatches
from gim_bench.progress import Silence
from gim_bench.settings.augmentations import SpeechSettings
from gim_bench.settings.suites import load_suite
from gim_bench.training.trainer import Trainer

SPEAKERS = 251  # of LibriSpeech's train-clean-100


class Model:
    """One row of a suite on a device; everything is built when it is asked for."""

    def __init__(
        self, suite: str, row: str, setting: Setting, *settings: str, bench: Bench | None = None
    ) -> None:
        """`settings` are values in place of the suite's, as in training.batch_size=16."""
        loaded = load_suite(suite, overrides=settings)
        (config,) = configs(loaded, methods=[row], device=setting.device).values()
        found = cells(loaded, {row: config}, seeds=[0], data_sha256="0" * 64)
        self.cell: Cell = found[0]
        self.bench = bench or random_images(setting, images=loaded.dataset.options.get("images", 1))

    @cached_property
    def trainer(self) -> Trainer:
        return trainer_of(
            self.cell,
            build(self.cell, self.bench, target=self.bench.targets[0]),
            device=self.bench.device,
        )

    @cached_property
    def batches(self) -> Batches:
        """Batches of what the method trains on."""
        return self.bench.batches(self.cell, Split(self.cell.config.method.trains_on))


def images_model(setting: Setting, row: str, *settings: str, batch: int) -> Model:
    """A row of the suite `memory`: the paper's encoder on random pixels, `batch` images a step."""
    sizes = f"training.batch_size={batch}", f"dataset.images={max(64, 4 * batch)}"
    return Model("memory", row, setting, *setting.sizes.vision, *sizes, *settings)


def random_images(setting: Setting, *, images: int) -> Bench:
    options = RandomImages.Options(images=images)
    return Bench(
        RandomImages(options=options, data_dir=None), device=setting.device, progress=Silence()
    )


def suite_bench(suite: str, setting: Setting, *settings: str, cache_dir: Path) -> Bench:
    """A suite's own data, prepared."""
    kind, options = dataset_of(load_suite(suite, overrides=settings))
    dataset = kind(options=options, data_dir=None, cache_dir=cache_dir)
    dataset.prepare()
    return Bench(dataset, device=setting.device, progress=Silence())


class SpeechModel(Model):
    """A row of the suite `librispeech` on windows of noise."""

    def __init__(self, setting: Setting, row: str, *settings: str, batch: int) -> None:
        sizes = (*setting.sizes.audio, f"training.batch_size={batch}")
        super().__init__("librispeech", row, setting, *sizes, *settings)

    @cached_property
    def batches(self) -> Batches:
        training, augmentation = self.cell.config.training, self.cell.config.augmentation
        assert isinstance(augmentation, SpeechSettings)
        return WindowBatches(
            noise(4 * training.batch_size, samples=2 * augmentation.samples),
            augmentation=augmentation,
            batch_size=training.batch_size,
            stream=self.cell.stream,
            device=self.bench.device,
        )

    @cached_property
    def trainer(self) -> Trainer:
        target = Target(name="speaker", classes=[str(number) for number in range(SPEAKERS)])
        learner = build(self.cell, self.bench, target=target)
        return trainer_of(self.cell, learner, device=self.bench.device)


def noise(recordings: int, *, samples: int) -> Recordings:
    """Recordings of white noise, each of so many samples, with speakers in turn."""
    draw = np.random.default_rng(seeding.derive("gpu", "noise"))
    return Recordings(
        samples=draw.integers(-1000, 1000, recordings * samples, dtype=np.int16),
        starts=np.arange(recordings, dtype=np.int64) * samples,
        lengths=np.full(recordings, samples, dtype=np.int64),
        labels={"speaker": np.arange(recordings, dtype=np.int64) % SPEAKERS},
        frames={},
    )


def without_end(batches: Batches) -> Iterator[Batch]:
    """Epoch after epoch."""
    epoch = 0
    while True:
        epoch += 1
        yield from batches.epoch(epoch)


def top_loss(losses: dict[str, torch.Tensor]) -> float:
    """The loss of the topmost unit, in nats; waits for the device."""
    *_, top = losses.values()
    return float(top)


def patterns(images: int, *, side: int, device: torch.device) -> np.ndarray:
    """Images of oriented waves in noise, uint8 [image 3 row column]: each of one direction and one
    frequency, which its patches share, so that there is something to be learnt.
    """
    draw = seeding.generator("gpu", "patterns")
    found: list[np.ndarray] = []
    row, column = torch.meshgrid(
        *[torch.fft.fftfreq(side, device=device)] * 2, indexing="ij"
    )  # cycles per pixel
    for count in _shares(images, at_most=512):
        angle = torch.rand(count, 1, 1, generator=draw).to(device) * torch.pi
        frequency = (0.05 + 0.2 * torch.rand(count, 1, 1, generator=draw)).to(device)
        noise = torch.randn(count, side, side, generator=draw).to(device)
        distance = [
            (row - sign * frequency * angle.sin()) ** 2
            + (column - sign * frequency * angle.cos()) ** 2
            for sign in (1, -1)
        ]
        passed = sum(torch.exp(-each / (2 * 0.02**2)) for each in distance)
        waves = torch.fft.ifft2(torch.fft.fft2(noise) * passed).real
        waves = waves / waves.std(dim=(1, 2), keepdim=True)
        pixels = (127.5 + 50 * waves).clamp(0, 255).to(torch.uint8)
        found.append(pixels[:, None].expand(-1, 3, -1, -1).cpu().numpy())
    return np.concatenate(found)


def _shares(total: int, *, at_most: int) -> Sequence[int]:
    return [min(at_most, total - start) for start in range(0, total, at_most)]
