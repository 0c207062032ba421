"""MLflow as a mirror of the records: `Tracker` writes, `mirror` says what and when."""

from gim_bench.tracking.client import Tracker

__all__ = ["Tracker"]
