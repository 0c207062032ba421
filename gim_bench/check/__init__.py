"""Is the code worse than it was? The records of a suite against the suite's reference.

`exact` compares seeds bit for bit, `tolerance` says when two sets of seeds differ by more than
chance, `sight` whether a reference tells a trained encoder from an untrained one. `judge` compares,
`reference` is the file, `making` makes one, and `formats` prints the verdict.
"""

from gim_bench.check.formats import check_format, render
from gim_bench.check.judge import Verdict, judge
from gim_bench.check.making import update
from gim_bench.check.reference import Reference, read_reference, reference_path

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
