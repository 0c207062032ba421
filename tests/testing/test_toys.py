"""The conformance tests on encoders with batch norm and dropout, and on a method of two views."""

from gim_bench.contract import GradientFlow
from gim_bench.testing.test_encoder import *  # noqa: F403 - pytest runs the tests by their names
from gim_bench.testing.test_method import *  # noqa: F403
from gim_bench.testing.test_traits import *  # noqa: F403
from tests.toys import Agreeing, toy_case

# Pieces are for encoders without batch norm; patches that see each other are not to be cut apart.
KINDS = [{"norm": True, "dropout": True}, {"mixing": True, "dropout": True}]
FLOWS = [GradientFlow.ISOLATED, GradientFlow.END_TO_END]
ENCODERS = [toy_case(**kind).on for kind in KINDS]
CASES = [
    toy_case(method, gradient_flow=flow, **kind)
    for method in ("gim", "greedy_supervised", Agreeing)
    for flow in FLOWS
    for kind in KINDS
    if flow is GradientFlow.ISOLATED or method != "greedy_supervised"
]
