"""Is the code worse than it was? The records of a suite against the suite's reference.

`tolerance` says when two sets of seeds differ by more than chance, `judge` compares, `reference`
holds the file, and `formats` prints the verdict.
"""

from gim_bench.check.formats import check_format, render
from gim_bench.check.judge import Verdict, judge
from gim_bench.check.reference import Reference, read_reference, reference_path, update

__all__ = [
    "Reference",
    "Verdict",
    "check_format",
    "judge",
    "read_reference",
    "reference_path",
    "render",
    "update",
]
