"""Tiny data, encoders and learners that tests share, of images and of speech."""

import functools
import gc
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import hypothesis
import pytest
import torch

from gim_bench import registry, seeding
from gim_bench.contract import Batch, Encoder, GradientFlow, Ingredients, Learner, Modality, Setup, Target
from gim_bench.datasets.images.photos import Photos
from gim_bench.encoders.conv_gru import ConvGRUEncoder, ConvGRUSettings
from gim_bench.encoders.resnet import ResNetEncoder, ResNetSettings
from gim_bench.hardware import calibration
from gim_bench.objectives.info_nce import INFO_NCE as INFO_NCE_OBJECTIVE
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.records.folder import RunsFolder
from gim_bench.settings.augmentations import FRAME_SAMPLES
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import Recompute, Suite
from tests.tiny_suite import tiny_suite

TINY_ENCODER = ResNetSettings(
    kind="resnet", width=4, blocks=(1, 1, 1), patch_size=8, patch_overlap=4
)
CROP = 32  # pixels: a grid of 7×7 patches
IMAGES = 8
CLASSES = 3

# Fewer units than channels, so that one taken for the other does not fit.
TINY_CONV_GRU = ConvGRUSettings(kind="conv_gru", width=4, context=3)
SAMPLES = 3_200  # 0.2 s: 639, 159, 80, 41, 20 and 20 time steps
STEPS = SAMPLES // FRAME_SAMPLES
WINDOWS = 6
SPEAKERS, PHONES = 3, 5

CLASS = Target(name="class", classes=[f"class {i}" for i in range(CLASSES)])
SPEAKER = Target(name="speaker", classes=[f"speaker {i}" for i in range(SPEAKERS)])
PHONE = Target(name="phone", classes=[f"phone {i}" for i in range(PHONES)], per_step=True)
TARGETS = {Modality.IMAGE: [CLASS], Modality.SPEECH: [SPEAKER, PHONE]}

INFO_NCE = {
    Modality.IMAGE: InfoNCESettings(),
    # Every layer is taller than 8 anchors and their targets, so all of them draw a window.
    Modality.SPEECH: InfoNCESettings(prediction_steps=3, skip_rows=0, negatives=10, anchor_rows=8),
}


class Tiny(NamedTuple):
    """A learner on a tiny encoder, and the generator that its losses draw from."""

    learner: Learner
    generator: torch.Generator


class Case(NamedTuple):
    """A registered method on a modality that it declares; one that uses labels, on a target."""

    method: str
    modality: Modality
    target: Target

    def build(self, *, seed: int = 0, recompute: Recompute = Recompute.NOTHING) -> Tiny:
        return build_tiny(
            self.method,
            seed=seed,
            modality=self.modality,
            target=self.target,
            recompute=recompute,
        )

    def batch(self) -> Batch:
        return image_batch() if self.modality is Modality.IMAGE else speech_batch()

    def __str__(self) -> str:
        return f"{self.method}-{self.modality}-{self.target.name}"


def cases() -> list[Case]:
    """Every registered method on every modality that it declares, without a list to keep."""
    found = []
    for name in sorted(registry.methods()):
        traits = registry.method(name).traits
        for modality in sorted(traits.modalities):
            targets = TARGETS[modality] if traits.uses_labels else TARGETS[modality][:1]
            found += [Case(name, modality, target) for target in targets]
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `case` runs for every one; `method_name`: for every method for images."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases(), ids=str)
    if "method_name" in metafunc.fixturenames:
        metafunc.parametrize("method_name", methods_for(Modality.IMAGE))


def methods_for(modality: Modality) -> Sequence[str]:
    return sorted({case.method for case in cases() if case.modality is modality})


def image_batch() -> Batch:
    draw = seeding.generator("tests", "batch")
    return Batch(
        inputs=torch.randn(IMAGES, 1, CROP, CROP, generator=draw),
        labels={"class": torch.arange(IMAGES) % CLASSES},
    )


def speech_batch() -> Batch:
    draw = seeding.generator("tests", "speech")
    phones = torch.randint(PHONES, (WINDOWS, STEPS), generator=draw)
    phones[:, 0] = -1  # a window's first step has a label only inside a recording
    phones[1, 12:] = -1  # a recording that ends before its window
    return Batch(
        inputs=torch.randn(WINDOWS, SAMPLES, generator=draw),
        labels={"speaker": torch.arange(WINDOWS) % SPEAKERS, "phone": phones},
    )


def tiny_encoder(modality: Modality) -> Encoder:
    if modality is Modality.IMAGE:
        return ResNetEncoder(TINY_ENCODER, shape=(1, CROP, CROP))
    return ConvGRUEncoder(TINY_CONV_GRU, shape=(SAMPLES,))


def tiny_setup(
    modality: Modality,
    *,
    objective: Settings | None = None,
    gradient_flow: GradientFlow = GradientFlow.ISOLATED,
) -> Setup:
    """What a suite of tiny cells puts a method into."""
    image = modality is Modality.IMAGE
    return Setup(
        encoder=ResNetEncoder if image else ConvGRUEncoder,
        encoder_options=TINY_ENCODER if image else TINY_CONV_GRU,
        shape=(1, CROP, CROP) if image else (SAMPLES,),
        objective=objective or INFO_NCE[modality],
        gradient_flow=gradient_flow,
    )


def build_tiny(
    name: str,
    *,
    seed: int = 0,
    modality: Modality = Modality.IMAGE,
    target: Target | None = None,
    info_nce: InfoNCESettings | None = None,
    recompute: Recompute = Recompute.NOTHING,
    compiled: bool = False,
    gradient_flow: GradientFlow | None = None,
    **options,
) -> Tiny:
    """The learner of a method as a cell would build it, on a tiny encoder."""
    method = registry.method(name)
    with seeding.weights_from("encoder", seed):
        encoder = tiny_encoder(modality)
    generator = seeding.generator("negatives", name, seed)
    traits = method.traits
    objective = traits.objective.settings() if traits.objective else Settings()
    if traits.objective is INFO_NCE_OBJECTIVE:
        objective = info_nce or INFO_NCE[modality]
    ingredients = Ingredients(
        encoder=encoder,
        target=target or TARGETS[modality][0],
        objective=objective,
        options=method.Options(**options),
        gradient_flow=gradient_flow or traits.gradient_flow,
        generator=generator,
        recompute=recompute,
        compiled=compiled,
    )
    with seeding.weights_from("heads", name, seed):
        return Tiny(method(ingredients), generator)


@pytest.fixture(scope="session", autouse=True)
def quick_calibration() -> Iterator[None]:
    """Tiny cells take a fraction of a second, and so must what their speed is compared with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(calibration.WORK, "cpu", calibration.Work(batch=1, side=32))
        yield


# The same examples in every run, however long one takes: no verdict hangs on luck or on speed.
hypothesis.settings.register_profile(
    "tests",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="module", autouse=True)
def imports_are_no_garbage() -> None:
    """Every cell collects garbage, and would look through all that was imported each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def photographs_are_decoded_once() -> Iterator[None]:
    """Most tiny cells are on the same sixteen photographs."""
    decode = Photos.__dict__["_photographs"].func
    once = functools.cache(lambda paths: decode(SimpleNamespace(_paths=paths)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Photos, "_photographs", property(lambda data: once(tuple(data._paths))))
        yield


@pytest.fixture(autouse=True)
def interrupts_are_heard() -> Iterator[None]:
    """Also where the tests run in the background of a shell, which has its jobs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def tiny() -> Callable[..., Tiny]:
    """Builds the tiny learner of a method: `tiny("gim", seed=0, modality=Modality.SPEECH)`."""
    return build_tiny


@pytest.fixture
def tiny_batch() -> Batch:
    """Eight gray 32×32 images, labelled, with the mean 0 and deviation 1 of normalised ones."""
    return image_batch()


@pytest.fixture
def tiny_speech() -> Batch:
    """Six windows of 0.2 s with speakers, and phones where they are known."""
    return speech_batch()


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Image cells that take a fraction of a second."""
    return tiny_suite(tmp_path)


@pytest.fixture
def runs(tmp_path: Path) -> RunsFolder:
    """A folder for records that has none yet."""
    return RunsFolder(tmp_path / "runs")
