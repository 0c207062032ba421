"""A case is a row of a part's table: what is measured, and the function that measures it."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu.plan import Sizes

Row = Mapping[str, object]  # plain values by name; names of bytes and seconds end so


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a part is measured on, and until when."""

    device: torch.device
    sizes: Sizes
    folder: Path  # of this measurement's files
    deadline: float  # of time.monotonic()

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    def rows(self, part: str) -> Sequence[Row]:
        """The rows of an earlier part; empty if there are none."""
        path = self.folder / f"{part}.json"
        return json.loads(path.read_text())["rows"] if path.exists() else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured, named by `labels`, and a function that gives its row or several."""

    labels: Row
    measure: Callable[[], Row | Sequence[Row]]
    seconds: float = 5  # that must be left for the case to begin


Cases = Callable[[Setting], Iterator[Case]]


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], *, device: torch.device, at_least: float) -> float:
    """Median wall seconds of a call, over three blocks that together take `at_least` seconds.

    The device works without waiting within a block; `work` has run before.
    """
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    once = max(time.perf_counter() - began, 1e-6)
    calls = max(1, min(2000, int(at_least / 3 / once)))
    blocks = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait_for(device)
        blocks.append((time.perf_counter() - began) / calls)
    return sorted(blocks)[1]
