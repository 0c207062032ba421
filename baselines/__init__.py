"""Baselines that GIM is compared with: one short file each, found through an entry point.

To add a baseline: write its file, add a line here. `gim_bench` never imports this package.
"""

METHODS = {
    "cpc": "baselines.cpc:ContrastivePredictiveCoding",
    "supervised": "baselines.supervised:Supervised",
    "greedy_supervised": "baselines.greedy_supervised:GreedySupervised",
    "mfcc": "baselines.mfcc:MFCC",
    "random_init": "baselines.random_init:RandomInit",
}
