"""Parts that hang, fail or break the device, to see that the measurement goes on."""

import os
import time

import torch

from benchmarks.gpu.case import Case
from benchmarks.gpu.plan import Part

HERE = "tests.benchmarks.some_parts"


def good(setting):
    yield Case(labels={"case": "one"}, measure=lambda: {"value": 1}, seconds=0)


def hanging(setting):
    yield Case(labels={"case": "before"}, measure=lambda: {"value": 1}, seconds=0)
    yield Case(labels={"case": "hangs"}, measure=lambda: time.sleep(600), seconds=0)


def dying(setting):
    yield Case(labels={"case": "before"}, measure=lambda: {"value": 1}, seconds=0)
    yield Case(labels={"case": "dies"}, measure=lambda: os._exit(9), seconds=0)


def raising(kind):
    def measure():
        raise kind

    return measure


def refused(setting):
    for error in (ValueError("no such kernel"), torch.OutOfMemoryError("CUDA out of memory.")):
        yield Case(labels={"case": "fails"}, measure=raising(error), seconds=0)
    yield from costly(setting)


def costly(setting):
    yield Case(labels={"case": "costly"}, measure=lambda: {"value": 1}, seconds=10_000)


def failing(setting):
    yield from refused(setting)
    yield from good(setting)
    raise RuntimeError("the part itself")


def raising_at_once(setting):
    raise RuntimeError("the part itself")


def refusing_model():
    tries = torch.backends.cudnn.benchmark
    raise RuntimeError(f"made in process {os.getpid()} with cudnn.benchmark = {tries}")


def part(name, *, seconds=60.0):
    return Part(name=name, title=name.title(), cases=f"{HERE}:{name}", seconds=seconds)


GOOD_AFTER_BAD = (part("hanging", seconds=0.0), part("dying"), part("failing"), part("good"))
HANGING = (part("hanging"), part("good"))
