"""A real training on generated images of STL-10's size, with the loss of held-out images."""

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.gpu.case import Case, Row, Setting, seconds_of
from benchmarks.gpu.models import images_model, patterns, without_end
from gim_bench.contract import Images
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.progress import Silence
from gim_bench.settings.augmentations import CropSettings
from gim_bench.training.loop import fit

SIDE = 96  # pixels
HELD_OUT = 0.125
EPOCHS_SHOWN = 8
MARGIN_SECONDS = 15  # for what comes before and after the steps


def cases(setting: Setting) -> Iterator[Case]:
    """GIM at the usual batch, as many steps as fit into the time."""
    yield Case(
        labels={"method": "gim", "batch": setting.sizes.batches[0], "precision": "bf16"},
        measure=partial(_trained, setting),
        seconds=setting.sizes.training_seconds / 3 + MARGIN_SECONDS / 3,
    )


def _trained(setting: Setting) -> Sequence[Row]:
    """A row for some epochs, the last among them; the last row is of the whole training."""
    batch = setting.sizes.batches[0]
    model = images_model(setting, "gim", 'training.precision="bf16"', batch=batch)
    augmentation = model.cell.config.augmentation
    assert isinstance(augmentation, CropSettings)
    pixels = patterns(setting.sizes.training_images, side=SIDE, device=setting.device)
    batches = ImageBatches(
        Images(images=pixels, labels={}),
        augmentation=augmentation,
        batch_size=batch,
        stream=model.cell.stream,
        device=setting.device,
        held_out=HELD_OUT,
    )
    steps = _affordable_steps(setting, batches)
    trained = fit(model.trainer, batches, steps=steps, title="training", progress=Silence())
    chance = model.trainer.learner.uninformed_losses()
    every = max(1, len(trained.losses) // EPOCHS_SHOWN)
    shown = [*trained.losses[:-1:every], trained.losses[-1]]
    return [
        {"epoch": "chance", **chance},
        *shown,
        {
            "steps": trained.steps,
            "seconds": trained.seconds,
            "examples_per_second": trained.samples / trained.seconds,
        },
    ]


def _affordable_steps(setting: Setting, batches: ImageBatches) -> int:
    """Steps of a training that ends in time, by a few steps of another learner."""
    tried = images_model(
        setting, "gim", 'training.precision="bf16"', batch=setting.sizes.batches[0]
    ).trainer
    drawn = without_end(batches)
    tried.step(next(drawn))
    each = seconds_of(
        lambda: tried.step(next(drawn)),
        device=setting.device,
        at_least=min(2, setting.sizes.timed_seconds),
    )
    seconds = min(setting.sizes.training_seconds, setting.seconds_left - MARGIN_SECONDS / 3)
    # An epoch's validation is a third of the work of as many training steps.
    return max(1, int(0.9 * seconds / each / (1 + HELD_OUT / 3)))
