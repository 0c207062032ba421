"""Is the code worse than it was? The records of a suite against the suite's reference.

`exact` compares seeds bit for bit, `tolerance` says when two sets of seeds differ by more than
chance, `sight` whether a reference tells a trained encoder from an untrained one. `judge` compares,
`reference` is the file, `making` makes one, `formats` prints the verdict, and `trackers` the means.
`history` keeps the means of every check in a file.
"""

from gim_bench.check.formats import check_format, render
from gim_bench.check.history import append
from gim_bench.check.judge import Verdict, judge
from gim_bench.check.making import update
from gim_bench.check.reference import Reference, read_reference, reference_path
from gim_bench.check.trackers import TRACKERS, for_tracker

__all__ = [
    "TRACKERS",
    "Reference",
    "Verdict",
    "append",
    "check_format",
    "for_tracker",
    "judge",
    "read_reference",
    "reference_path",
    "render",
    "update",
]
