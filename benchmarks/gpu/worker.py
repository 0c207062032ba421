"""Measures the parts that it is told to, and writes each row as soon as it is there."""

import argparse
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.gpu.case import Case, Row, Setting
from benchmarks.gpu.plan import SIZES, Part, named
from gim_bench.errors import class_and_first_line
from gim_bench.hardware import devices, memory
from gim_bench.system.atomic import write_atomically

BROKEN = 3  # exit code: the device answers no more, and only another process could use it


class Table:
    """A part's file, written anew with every row."""

    def __init__(self, part: Part, folder: Path) -> None:
        self.path = folder / f"{part.name}.json"
        self.content = {
            "part": part.name,
            "title": part.title,
            "status": "running",
            "limit_seconds": part.seconds,
            "began": time.monotonic(),
            "seconds": 0.0,
            "rows": [],
        }
        self.write()

    def add(self, rows: Sequence[Row]) -> None:
        self.content["rows"] += rows
        self.write()

    def end(self, status: str, **facts: object) -> None:
        self.content |= {"status": status, **facts}
        self.write()

    def write(self) -> None:
        self.content["seconds"] = time.monotonic() - self.content["began"]
        text = json.dumps(self.content, indent=1, default=str)
        write_atomically(self.path, text.encode())


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("folder", type=Path)
    options.add_argument("--device")
    options.add_argument("--plan", help="module:name of the parts")
    options.add_argument("--parent", type=int, help="the process with which this one ends")
    options.add_argument("--deadline", type=float)
    options.add_argument("--sizes", choices=SIZES)
    options.add_argument("--parts", type=lambda text: text.split(","))
    given = options.parse_args()
    threading.Thread(target=_end_with, args=[given.parent], daemon=True).start()
    setting = Setting(
        device=devices.resolve_device(given.device),
        sizes=SIZES[given.sizes],
        folder=given.folder,
        deadline=given.deadline,
    )
    if not _answers(setting.device):
        sys.exit(f"{given.device} answers nothing")
    for part in named(given.plan):
        if part.name in given.parts:
            measure(part, setting)


def measure(part: Part, setting: Setting) -> None:
    """Measure the cases of a part for which there is time. Exits where the device is broken.

    Without any time the part is not begun.
    """
    if setting.seconds_left <= 0:
        return
    table = Table(part, setting.folder)
    ending = min(setting.deadline, time.monotonic() + part.seconds)
    setting = replace(setting, deadline=ending)
    try:
        for case in part.load()(setting):
            table.add([{**case.labels, **row} for row in _rows(case, setting)])
            if not _answers(setting.device):
                table.end("failed", why="the device answers no more")
                os._exit(BROKEN)
    except Exception as error:
        traceback.print_exc()
        table.end("failed", why=class_and_first_line(error))
        if not _answers(setting.device):
            os._exit(BROKEN)
    else:
        table.end(_status(table.content["rows"]))


def _status(rows: Sequence[Row]) -> str:
    """Whether a part is done: a row was measured, or there is none that this device could have."""
    if not rows or any(row.keys().isdisjoint({"failed", "not_measured"}) for row in rows):
        return "done"
    return "failed" if any("failed" in row for row in rows) else "not measured"


def _rows(case: Case, setting: Setting) -> Sequence[Row]:
    """What the case gives; one row with the reason if there is no time or an error."""
    left = max(0.0, setting.seconds_left)
    if left < case.seconds:
        return [{"not_measured": f"{case.seconds:.0f} s needed, {left:.0f} s left"}]
    try:
        found = case.measure()
    except Exception as error:
        traceback.print_exc()
        exhausted = memory.is_exhausted(error)
        return [{"failed": "out of memory" if exhausted else class_and_first_line(error)}]
    return [found] if isinstance(found, Mapping) else found


def _answers(device: torch.device) -> bool:
    """Whether the device, freed of an earlier case, still computes.

    After an illegal access every call of the process raises, and so does freeing.
    """
    try:
        memory.free(device)
        return float(torch.ones(2, device=device).sum()) == 2
    except Exception:
        traceback.print_exc()
        return False


def _end_with(parent: int) -> None:
    """End this process once its parent has ended, however that happened."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    main()
