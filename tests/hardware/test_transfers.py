"""Copies to a GPU go through pinned memory, and constants are copied once."""

import torch

from gim_bench.hardware.transfers import constant, moved

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Pageable(torch.Tensor):
    """A tensor that notes how it is moved, and stays where it is."""

    def pin_memory(self):
        self.pinned = True
        return self

    def to(self, device, *, non_blocking=False):
        self.moved = {"device": device, "non_blocking": non_blocking}
        return self


def pageable():
    return torch.zeros(2).as_subclass(Pageable)


def test_values_go_to_a_gpu_by_pinned_memory_while_the_cpu_goes_on():
    values = moved(pageable(), device=GPU)
    assert values.pinned
    assert values.moved == {"device": GPU, "non_blocking": True}


def test_values_that_stay_on_the_cpu_are_not_pinned():
    values = moved(pageable(), device=CPU)
    assert not hasattr(values, "pinned")
    assert moved(plain := torch.zeros(2), device=CPU) is plain


def test_a_constant_is_made_once_on_every_device():
    meta = torch.device("meta")
    assert constant((0.5, 0.25), device=CPU) is constant((0.5, 0.25), device=CPU)
    assert constant((0.5, 0.25), device=CPU).tolist() == [0.5, 0.25]
    assert constant((0.5, 0.25), device=meta).device == meta
