"""A GRU as a loop over time, in the letters of Cho et al. 2014 as PyTorch documents them."""

import torch
from torch import Tensor, nn


def slow_gru(z: Tensor, gru: nn.GRU, *, through_time: bool) -> Tensor:
    """c [b t e] of z [b t d]; without `through_time` no gradient passes from c_t to c_{t-1}."""
    (w_ih, w_hh, b_ih, b_hh) = gru.all_weights[0]
    h = z.new_zeros(len(z), gru.hidden_size)
    contexts = []
    for t in range(z.shape[1]):
        before = h if through_time else h.detach()
        from_input = z[:, t] @ w_ih.T + b_ih
        from_before = before @ w_hh.T + b_hh
        reset_i, update_i, new_i = from_input.chunk(3, dim=1)
        reset_h, update_h, new_h = from_before.chunk(3, dim=1)
        reset = torch.sigmoid(reset_i + reset_h)
        update = torch.sigmoid(update_i + update_h)
        new = torch.tanh(new_i + reset * new_h)
        h = (1 - update) * new + update * before
        contexts.append(h)
    return torch.stack(contexts, dim=1)
