"""One command that measures a GPU within a few minutes: see docs/gpu.md.

Start reading at `plan.py`, the list of parts; `__main__.py` watches over the time, `worker.py`
measures, `report.py` writes. Nothing but `worker.py` and the parts import PyTorch.
"""
