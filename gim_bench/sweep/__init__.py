"""Sweeps: what Optuna tries, and the studies that several processes share.

Optuna is imported in here alone.
"""

from gim_bench.sweep.probe_rates import Plan, sweep_cell
from gim_bench.sweep.studies import Studies

__all__ = ["Plan", "Studies", "sweep_cell"]
