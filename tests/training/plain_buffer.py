"""A buffer between two workers as a plain list: the oracle for the one that processes share."""

from gim_bench.settings.schema import BufferPolicy
from gim_bench.training.pipeline.buffer import Use


class PlainBuffer:
    """Batches in the order of their arrival, each [number, version, uses, content]."""

    def __init__(self, size, policy):
        self.size, self.policy = size, policy
        self.batches, self.made = [], 0

    def put(self, version, content=None):
        """Returns the number of the new batch."""
        if len(self.batches) == self.size:
            dropped = self.batches[0]
            if self.policy is BufferPolicy.LEAST_USED:
                most = max(uses for _, _, uses, _ in self.batches)
                dropped = next(batch for batch in self.batches if batch[2] == most)
            self.batches.remove(dropped)
        self.batches.append([self.made, version, 0, content])
        self.made += 1
        return self.made - 1

    def take(self):
        return self._use(self._next())

    def take_content(self):
        chosen = self._next()
        return chosen[3], self._use(chosen)

    def has_room(self):
        if self.policy is BufferPolicy.FRESHEST:  # older batches are never used again
            return not self.batches or self.batches[-1][2] > 0
        return len(self.batches) < self.size or any(batch[2] for batch in self.batches)

    def _next(self):
        if self.policy is BufferPolicy.FRESHEST:
            return self.batches[-1]
        least = min(uses for _, _, uses, _ in self.batches)
        return next(batch for batch in self.batches if batch[2] == least)

    def _use(self, chosen):
        chosen[2] += 1
        number, version, _, _ = chosen
        return Use(self.made, number, version, self.batches[-1][1] - version)
