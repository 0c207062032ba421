"""gim_bench: does training without end-to-end backpropagation work, what does it cost and save?

In Python: `run` runs a suite, and `results` is the table of a folder of runs. `summary` and
`differences` have means and comparisons with intervals, `figures` those of the report. `load` is an
encoder with its weights, and `features` what its modules tell of examples; `export` writes one for
people without gim_bench (docs/python.md). Each is imported when it is used.

Start reading at `contract.py`, then `cells/run.py`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gim_bench.api.comparisons import differences as differences
    from gim_bench.api.comparisons import figures as figures
    from gim_bench.api.comparisons import summary as summary
    from gim_bench.api.encoders import Trained as Trained
    from gim_bench.api.encoders import features as features
    from gim_bench.api.encoders import load as load
    from gim_bench.api.export import export as export
    from gim_bench.api.running import run as run
    from gim_bench.api.tables import results as results

__version__ = "0.1.0"

# Part of every cell's key. Raise it when a change moves the numbers of an unchanged configuration,
# so that old records are not mistaken for new ones.
# 3: gray images are rounded to whole numbers of 255, as PIL rounds them.
# 5: every unit of a learner draws from a stream of its own.
# 6: modules of bottleneck blocks and InfoNCE are computed in pieces on CPUs: other rounding.
# 7: InfoNCE scores all steps together, and pieces of bottlenecks are larger: other rounding.
# 8: logistic regressions reach every penalty by decades, closer to the minimum than from weights 0.
RESULTS_VERSION = 8

_API = {
    "run": "gim_bench.api.running",
    "results": "gim_bench.api.tables",
    "summary": "gim_bench.api.comparisons",
    "differences": "gim_bench.api.comparisons",
    "figures": "gim_bench.api.comparisons",
    "load": "gim_bench.api.encoders",
    "features": "gim_bench.api.encoders",
    "Trained": "gim_bench.api.encoders",
    "export": "gim_bench.api.export",
}


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_API[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
