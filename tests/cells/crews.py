"""Cells with processes of their own: looking at these, and acting while they train."""

import psutil

from gim_bench.progress import Silence


def children():
    return psutil.Process().children(recursive=True)


def children_of_a_pipeline():
    """Processes that a pipeline has left; multiprocessing keeps one of its own."""
    return [child for child in children() if "resource_tracker" not in " ".join(child.cmdline())]


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
