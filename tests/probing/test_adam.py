"""Adam's steps, as the probes take them."""

import torch
from torch import nn

from gim_bench.probing.adam import Adam


def test_steps_are_those_of_torchs_adam_to_the_bit():
    draw = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (5,), ()]
    start = [torch.randn(shape, generator=draw) for shape in shapes]
    ours, theirs = ([nn.Parameter(w.clone()) for w in start] for _ in range(2))
    adam, reference = Adam(ours), torch.optim.Adam(theirs, lr=1e-2, fused=True)
    for _ in range(20):
        gradients = [torch.randn(shape, generator=draw) for shape in shapes]
        adam.step(gradients, rate=1e-2)
        for weights, gradient in zip(theirs, gradients, strict=True):
            weights.grad = gradient.clone()
        reference.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(ours, start, strict=True))
