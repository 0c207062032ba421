"""Cells with processes of their own: looking at these, and acting while they train."""

import os
import signal
from dataclasses import replace

import psutil
import pytest

from gim_bench.cells import phases
from gim_bench.cells.run import run_cell
from gim_bench.progress import Silence
from gim_bench.records.record import Status


def workers_of_a_cell():
    """Processes of a training that is under way, or that it has left.

    Not those of multiprocessing itself: the tracker of resources, and the process that is forked.
    """
    children = psutil.Process().children(recursive=True)
    return [child for child in children if not _is_multiprocessing_s_own(child)]


def _is_multiprocessing_s_own(child):
    command = " ".join(child.cmdline())
    return "resource_tracker" in command or (
        "forkserver" in command and child.ppid() == os.getpid()
    )


class Acting(Silence):
    """Does something in each step of a training."""

    def __init__(self, act):
        self.act = act

    def task(self, title, *, total, unit):
        self.counts = "training" in title
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, steps=1, **_):
        if self.counts:
            self.act()


class At:
    """A function that does something once, in its call of that number."""

    def __init__(self, number, act):
        self.left, self.act = number, act

    def __call__(self):
        self.left -= 1
        if not self.left:
            self.act()


def end_all():
    """SIGTERM to this process and its workers."""
    for process in (*workers_of_a_cell(), psutil.Process()):
        process.send_signal(signal.SIGTERM)


def interrupted_and_finished(cell, bench, runs, *, at):
    """The record of a cell that `at` interrupts, once the same command has finished it."""
    bench.progress = Acting(at)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, bench, runs=runs)
    assert not workers_of_a_cell()
    bench.progress = Silence()
    record = run_cell(cell, bench, runs=runs)
    assert record.status is Status.DONE, record.error
    return record


def trainers_kept(monkeypatch):
    """A list that the trainers of pipelines are added to, as cells make them."""
    made, make = [], phases.pipelined_trainer_of

    def kept(*args, **kwargs):
        made.append(make(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(phases, "pipelined_trainer_of", kept)
    return made


def copied(batch):
    first, *further = (view.clone() for view in batch.views)
    return replace(batch, inputs=first, further=tuple(further))
