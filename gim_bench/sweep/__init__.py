"""Sweeps by Optuna: of the linear probe's learning rate, and of the settings of training.

No other room imports Optuna.
"""

from gim_bench.sweep.pretraining import Pretraining, sweep_pretraining
from gim_bench.sweep.probe_rates import ProbeTrials, sweep_cell
from gim_bench.sweep.spaces import parse_space
from gim_bench.sweep.studies import Studies

__all__ = [
    "Pretraining",
    "ProbeTrials",
    "Studies",
    "parse_space",
    "sweep_cell",
    "sweep_pretraining",
]
