"""A progress that remembers."""

from gim_bench.progress import Silence


class Listener(Silence):
    """Keeps what it is told."""

    def __init__(self):
        self.lines, self.tasks, self.steps = [], [], 0

    def say(self, line):
        self.lines.append(line)

    def task(self, title, *, total, unit):
        self.tasks.append((title, total, unit))
        return self

    def advance(self, steps=1, **facts):
        self.steps += steps
