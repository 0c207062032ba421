"""Features and probes at the paper's sizes, and the cell `gim` of quickstart."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.gpu.case import Case, Row, Setting, seconds_of, wait_for
from benchmarks.gpu.models import Model, images_model, random_images, suite_bench
from gim_bench.cells.run import run_cell
from gim_bench.contract import Split
from gim_bench.hardware import devices
from gim_bench.probing.probe import probe as probe_learner
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.settings.suites import load_suite

SHOWN = (
    "accuracy", "ridge_accuracy", "loss", "uninformed_loss", "train/seconds", "train/steps",
    "train/samples_per_second", "train/step_per_calibration", "selection/seconds",
    "probe/seconds", "memory/gpu_allocated_peak_bytes",
)  # fmt: skip


def probe(setting: Setting) -> Iterator[Case]:
    """Features of two splits are read, and probes of all modules fitted to random labels."""
    yield Case(labels={"work": "features"}, measure=partial(_features, setting), seconds=10)
    for suite, own in (("stl10", setting.sizes.probe), ("quickstart", ())):
        yield Case(
            labels={"work": f"features of two splits, and the probes of {suite}"},
            measure=partial(_probe, setting, suite, own),
            seconds=20,
        )


def quickstart(setting: Setting) -> Iterator[Case]:
    """The cell as `run` runs it: trained, probed, measured, recorded."""
    yield Case(
        labels={"suite": "quickstart", "method": "gim"},
        measure=partial(_quickstart, setting),
        seconds=30 if setting.device.type == "cuda" else 5,
    )


def _probed_model(setting: Setting) -> Model:
    bench = random_images(setting, images=setting.sizes.probed_images)
    numbers = 'training.precision="bf16"', f"training.batch_size={setting.sizes.batches[0]}"
    return Model("memory", "gim", setting, *setting.sizes.vision, *numbers, bench=bench)


def _features(setting: Setting) -> Row:
    model = images_model(
        setting, "gim", 'training.precision="bf16"', batch=setting.sizes.batches[0]
    )
    batch, learner = next(model.batches.in_order()), model.trainer.learner

    def read() -> object:
        with devices.autocast(setting.device, model.trainer.precision):
            return learner.features(batch.inputs)

    read()
    seconds = seconds_of(read, device=setting.device, at_least=setting.sizes.timed_seconds)
    return {"examples_per_second": len(batch.inputs) / seconds}


def _probe(setting: Setting, suite: str, own: tuple[str, ...]) -> Row:
    model = _probed_model(setting)
    settings = load_suite(suite, overrides=own).probe
    assert settings is not None
    train, test = (model.bench.batches(model.cell, split) for split in (Split.TRAIN, Split.TEST))

    def fit() -> object:
        return probe_learner(
            model.trainer.learner,
            train=train,
            test=test,
            targets=model.bench.targets,
            settings=settings,
            precision=model.trainer.precision,
            title=suite,
            progress=Silence(),
        )

    return {"images": 2 * setting.sizes.probed_images, "seconds": _once(fit, setting.device)}


def _once(work: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - began


def _quickstart(setting: Setting) -> Row:
    with TemporaryDirectory() as folder:
        own = setting.sizes.quickstart
        bench = suite_bench("quickstart", setting, *own, cache_dir=Path(folder))
        bench.cell_timeout = max(1.0, setting.seconds_left - 2)
        cell = Model("quickstart", "gim", setting, *own, bench=bench).cell
        record = run_cell(cell, bench, runs=RunsFolder(Path(folder) / "runs"))
    if record.error:
        return {"failed": record.error}
    return {name: record.metrics[name] for name in SHOWN if name in record.metrics}
