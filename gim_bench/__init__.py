"""gim_bench: does training without end-to-end backpropagation work, what does it cost and save?

Start reading at `contract.py`, then `run.py`.
"""

__version__ = "0.1.0"

# Part of every cell's key. Raise it when a change moves the numbers of an unchanged configuration,
# so that old records are not mistaken for new ones.
# 3: gray images are rounded to whole numbers of 255, as PIL rounds them.
RESULTS_VERSION = 4
