"""Baselines for GIM: one short file each, which `gim_bench` finds through an entry point.

To add a baseline, write its file and add a line here. `gim_bench` never imports this package.
"""

METHODS = {
    "cpc": "baselines.cpc:ContrastivePredictiveCoding",
    "supervised": "baselines.supervised:Supervised",
    "greedy_supervised": "baselines.greedy_supervised:GreedySupervised",
    "mfcc": "baselines.mfcc:MFCC",
    "random_init": "baselines.random_init:RandomInit",
}
