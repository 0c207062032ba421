"""Sweeps: what Optuna tries of the linear probe's learning rate, and of the settings of training.

Optuna is imported in here alone.
"""

from gim_bench.sweep.pretraining import Pretraining, sweep_pretraining
from gim_bench.sweep.probe_rates import Plan, sweep_cell
from gim_bench.sweep.spaces import parse_space
from gim_bench.sweep.studies import Studies

__all__ = ["Plan", "Pretraining", "Studies", "parse_space", "sweep_cell", "sweep_pretraining"]
