"""A clock that a test sets."""


class Clock:
    """Seconds, in place of the module `time`."""

    now = 0.0

    def monotonic(self):
        return self.now
