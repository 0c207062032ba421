"""Independent streams of random numbers, each named by what it is for.

The data's order comes from (dataset, seed) alone, so every method sees the same batches; the
encoder's first weights from the seed alone, so every method starts from the encoder that
`random_init` reports; heads and negatives from (method, seed).
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*names: str | int) -> int:
    """A 63-bit seed that depends on every name and on their order, alike on every machine."""
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*names: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """A generator of its own for the stream that `names` describe."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(*names))


@contextmanager
def weights_from(*names: str | int) -> Iterator[None]:
    """Within the block, weights on the CPU are initialised from the stream that `names` describe.

    The global generator is put back afterwards, so building one part never moves another.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(*names))
        yield
