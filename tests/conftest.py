"""Tiny data, encoders and learners that tests share, of images and of speech."""

import functools
import gc
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest
import torch

from gim_bench import registry
from gim_bench.contract import Batch, GradientFlow, Modality, Setup, Target
from gim_bench.datasets.images.photos import Photos
from gim_bench.hardware import calibration
from gim_bench.objectives.info_nce import INFO_NCE as INFO_NCE_OBJECTIVE
from gim_bench.objectives.info_nce import InfoNCESettings
from gim_bench.records.folder import RunsFolder
from gim_bench.settings.base import Settings
from gim_bench.settings.schema import Recompute, Suite
from gim_bench.testing.cases import (
    TARGETS,
    TINY,
    Case,
    EncoderCase,
    Tiny,
    encoder_case,
    method_cases,
)
from tests.tiny_suite import tiny_suite

# Cells run in the process of the test, where tests can replace functions.
os.environ.setdefault("GIM_BENCH_WORKERS", "1")

# Not imported yet: what these tests assert is shown as in any other test.
pytest.register_assert_rewrite(
    "gim_bench.testing.test_encoder",
    "gim_bench.testing.test_method",
    "gim_bench.testing.test_traits",
)

CROP = TINY[Modality.IMAGE].shape[1]  # pixels: a grid of 7×7 patches
SAMPLES = TINY[Modality.SPEECH].shape[0]
STEPS = TINY[Modality.SPEECH].steps

INFO_NCE = {
    Modality.IMAGE: InfoNCESettings(),
    # Every layer is taller than 8 anchors and their targets, so all of them draw a window.
    Modality.SPEECH: InfoNCESettings(prediction_steps=3, skip_rows=0, negatives=10, anchor_rows=8),
}


# Settings of objectives that keep their heads small, by the name of the objective.
SMALL_OBJECTIVES: dict[str, dict[str, object]] = {
    "local_infomax": {"mi_units": 8},
}


def cases() -> list[Case]:
    """Every registered method on every modality that it declares, without a list to keep."""
    found = []
    for name in sorted(registry.methods()):
        method = registry.method(name)
        objective = method.traits.objective
        small = SMALL_OBJECTIVES.get(objective.name, {}) if objective else {}
        for modality in sorted(method.traits.modalities):
            found += method_cases(
                method,
                name=name,
                encoders=[TINY[modality]],
                options={},
                objective=INFO_NCE[modality].entries()
                if objective is INFO_NCE_OBJECTIVE
                else small,
            )
    return found


# Encoders beside the tiny ones that methods are tested on: settings that keep them small.
SMALL: dict[str, dict[str, object]] = {
    # The conformance tests look for gradients, which blocks that start as shortcuts do not have.
    "batch_norm_resnet": {"depth": 18, "width": 4, "zero_init_residual": False},
    "folded_convnet": {"width": 4},
    "pyramid": {"width": 4, "kernels": (4, 3, 2), "strides": (2, 2, 2)},
    "vgg8b": {"width": 4, "hidden": 6},
}


def encoder_cases() -> list[EncoderCase]:
    """Every registered encoder: the tiny ones, others with small settings or their defaults."""
    tiny = {on.options.kind: on for on in TINY.values()}
    return [
        tiny.get(kind)
        or encoder_case(registry.encoder(kind), options={"kind": kind, **SMALL.get(kind, {})})
        for kind in sorted(registry.encoders())
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `case` runs for every method, one that takes `encoder_case` for every
    encoder, or for those that its file names; `method_name`: for every method for images.
    """
    own = vars(metafunc.module)
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", own.get("CASES") or cases(), ids=str)
    if "encoder_case" in metafunc.fixturenames:
        metafunc.parametrize("encoder_case", own.get("ENCODERS") or encoder_cases(), ids=str)
    if "method_name" in metafunc.fixturenames:
        metafunc.parametrize("method_name", methods_for(Modality.IMAGE))


def methods_for(modality: Modality) -> Sequence[str]:
    return sorted({case.name for case in cases() if case.modality is modality})


def tiny_setup(
    modality: Modality,
    *,
    objective: Settings | None = None,
    gradient_flow: GradientFlow = GradientFlow.ISOLATED,
) -> Setup:
    """What a suite of tiny cells puts a method into."""
    on = TINY[modality]
    return Setup(
        encoder=on.encoder,
        encoder_options=on.options,
        shape=on.shape,
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
    cuda_graphs: bool = False,
    gradient_flow: GradientFlow | None = None,
    **options,
) -> Tiny:
    """The learner of a method as a cell would build it, in single precision, on a tiny encoder."""
    method = registry.method(name)
    objective = method.traits.objective.settings() if method.traits.objective else Settings()
    if method.traits.objective is INFO_NCE_OBJECTIVE:
        objective = info_nce or INFO_NCE[modality]
    case = Case(
        name=name,
        method=method,
        options=method.Options(**options),
        objective=objective,
        gradient_flow=gradient_flow or method.traits.gradient_flow,
        target=target or TARGETS[modality][0],
        on=TINY[modality],
    )
    return case.build(
        seed=seed,
        recompute=recompute,
        compiled=compiled,
        cuda_graphs=cuda_graphs,
        dtype=torch.float32,
    )


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
    return TINY[Modality.IMAGE].batch(dtype=torch.float32)


@pytest.fixture
def tiny_speech() -> Batch:
    """Six windows of 0.2 s with speakers, and phones where they are known."""
    return TINY[Modality.SPEECH].batch(dtype=torch.float32)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Image cells that take a fraction of a second."""
    return tiny_suite(tmp_path)


@pytest.fixture
def runs(tmp_path: Path) -> RunsFolder:
    """A folder for records that has none yet."""
    return RunsFolder(tmp_path / "runs")
