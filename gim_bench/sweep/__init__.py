"""Sweeps by Optuna: of the probe's learning rate or penalty, and of the settings of training.

No other room imports Optuna.
"""

from gim_bench.sweep.evidence import check_file, check_unseen, evidence_of, rates_of
from gim_bench.sweep.pretraining import (
    Pretraining,
    is_trained,
    sweep_pretraining,
    unsettled,
    work_off,
)
from gim_bench.sweep.probe_rates import ProbeTrials, sweep_cell
from gim_bench.sweep.spaces import parse_space
from gim_bench.sweep.studies import Studies
from gim_bench.sweep.workers import work_off_by_workers

__all__ = [
    "Pretraining",
    "ProbeTrials",
    "Studies",
    "check_file",
    "check_unseen",
    "evidence_of",
    "is_trained",
    "parse_space",
    "rates_of",
    "sweep_cell",
    "sweep_pretraining",
    "unsettled",
    "work_off",
    "work_off_by_workers",
]
