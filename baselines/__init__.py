"""What GIM is compared with: one short file each, which `gim_bench` finds through an entry point.

To add a baseline, write its file and add a line here. `gim_bench` never imports this package.
"""

METHODS = {
    "cpc": "baselines.cpc:ContrastivePredictiveCoding",
    "clapp": "baselines.clapp:CLAPP",
    "barlow_twins": "baselines.barlow_twins:BarlowTwins",
    "blockwise_barlow_twins": "baselines.barlow_twins:BlockwiseBarlowTwins",
    "deep_infomax": "baselines.deep_infomax:DeepInfoMax",
    "greedy_deep_infomax": "baselines.deep_infomax:GreedyDeepInfoMax",
    "supervised": "baselines.supervised:Supervised",
    "greedy_supervised": "baselines.greedy_supervised:GreedySupervised",
    "predsim": "baselines.predsim:PredSim",
    "random_init": "baselines.random_init:RandomInit",
    "chance": "baselines.chance:Chance",
    "pixels": "baselines.pixels:Pixels",
    "image_statistics": "baselines.image_statistics:ImageStatistics",
    "power_spectrum": "baselines.power_spectrum:PowerSpectrum",
    "kmeans_patches": "baselines.kmeans_patches:KMeansPatches",
    "mfcc": "baselines.mfcc:MFCC",
    "mfcc_statistics": "baselines.mfcc_statistics:MFCCStatistics",
}
