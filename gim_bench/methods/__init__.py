"""GIM and its variants, by name; the methods of other papers are in the package `baselines`.

Classes are named by text, so that listing them imports none. To add a method, write its file and
add a line here.
"""

METHODS = {
    "gim": "gim_bench.methods.gim:GreedyInfoMax",
    "gim_iterative": "gim_bench.methods.gim:IterativeGreedyInfoMax",
    "gim_no_bptt": "gim_bench.methods.ablations:GreedyInfoMaxWithoutBPTT",
    "gim_no_ar": "gim_bench.methods.ablations:GreedyInfoMaxWithoutAutoregressor",
}
