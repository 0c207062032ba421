"""A step seen from inside: where the CPU waits for the card, and which kernels take the time."""

import warnings
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.case import Case, Row, Setting, wait_for
from benchmarks.gpu.models import Model, SpeechModel, images_model, without_end

STEPS = 3
KERNELS = 25
WAITED = "called a synchronizing CUDA operation"  # what PyTorch's debug mode warns of
# Without cudaDeviceSynchronize, which no step calls but the measurement itself does.
WAITING = ("cudaStreamSynchronize", "cudaEventSynchronize")


def waits(setting: Setting) -> Iterator[Case]:
    """Where a step, with the batch that it draws, makes the CPU wait for the card."""
    if setting.device.type != "cuda":
        return
    for row in ("gim", "gim_joint", "supervised", "cpc"):
        model = partial(images_model, setting, row, batch=setting.sizes.batches[-1])
        yield Case(labels={"method": row, "on": "images"}, measure=partial(_waits, model))
    speech = partial(SpeechModel, setting, "gim", batch=setting.sizes.audio_batches[-1])
    yield Case(labels={"method": "gim", "on": "speech"}, measure=partial(_waits, speech))


def _waits(make: partial[Model]) -> list[Row]:
    """A row for each line of code that waited in a step, or one that says that none did."""
    model = make()
    drawn = without_end(model.batches)
    for _ in range(2):  # constants and states are made in the first steps
        model.trainer.step(next(drawn))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            model.trainer.step(next(drawn))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waiting = [each for each in seen if WAITED in str(each.message)]
    places = Counter(f"{_file(each.filename)}:{each.lineno}" for each in waiting)
    return [{"waits": count, "place": place} for place, count in places.most_common()] or [
        {"waits": 0}
    ]


def _file(path: str) -> str:
    """Return the last two components of a path: many files of PyTorch share a name.

    >>> _file("/opt/torch/autograd/graph.py")
    'autograd/graph.py'
    """
    return "/".join(Path(path).parts[-2:])


def kernels(setting: Setting) -> Iterator[Case]:
    """The kernels of a step at the usual batch, with the batch that it draws."""
    for row in ("gim", "gim_joint"):
        model = partial(images_model, setting, row, batch=setting.sizes.batches[0])
        yield Case(labels={"method": row}, measure=partial(_kernels, setting, model), seconds=10)


def _kernels(setting: Setting, make: partial[Model]) -> list[Row]:
    """Time and launches of a step, then the kernels that take most of the time."""
    model, device = make(), setting.device
    drawn = without_end(model.batches)
    for _ in range(STEPS):
        model.trainer.step(next(drawn))
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    wait_for(device)
    with profile(activities=activities, acc_events=True) as traced:
        for _ in range(STEPS):
            model.trainer.step(next(drawn))
        wait_for(device)
    events = traced.key_averages()
    where = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    doing = DeviceType.CUDA if on_gpu else DeviceType.CPU  # not what asked for it
    busy = [e for e in events if e.device_type == doing and getattr(e, where) > 0]
    busy = [e for e in busy if not getattr(e, "is_user_annotation", False)]
    if not busy:
        return [{"failed": "the profiler saw no kernel: see log.txt"}]
    total = sum(getattr(event, where) for event in busy)  # microseconds
    launches = [event for event in events if "LaunchKernel" in event.key]
    summary = {
        "kernel": "all",
        "ms_per_step": total / 1e3 / STEPS,
        "calls_per_step": sum(event.count for event in launches) / STEPS,
        "waits_per_step": sum(e.count for e in events if e.key in WAITING) / STEPS,
        "copies_per_step": sum(e.count for e in events if e.key.startswith("Memcpy")) / STEPS,
    }
    slowest = sorted(busy, key=lambda event: getattr(event, where), reverse=True)[:KERNELS]
    return [
        summary,
        *(
            {
                "kernel": event.key[:100],
                "ms_per_step": getattr(event, where) / 1e3 / STEPS,
                "share": getattr(event, where) / total,
                "calls_per_step": event.count / STEPS,
            }
            for event in slowest
        ),
    ]
