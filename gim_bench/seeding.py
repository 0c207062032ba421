"""Independent streams of random numbers, each with a name for its purpose.

Data order and augmentation depend on (dataset, split, seed) alone, so methods that train on the
same split with the same augmentation and batch size see the same batches. The encoder's initial
weights depend on the seed alone, so every method starts from the encoder that `random_init`
reports. Heads and negatives depend on (method, seed).
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive(*names: str | int) -> int:
    """A 63-bit seed from the names and their order, the same on every machine."""
    digest = hashlib.sha256(json.dumps(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*names: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    """A new generator for the stream that `names` describe."""
    import torch

    return torch.Generator(device=device).manual_seed(derive(*names))


@contextmanager
def weights_from(*names: str | int) -> Iterator[None]:
    """A context that initialises weights on the CPU from the stream that `names` describe.

    The CPU's global generator is restored at the end, so building one part never changes another.
    Generators of GPUs are seeded, too, and are not restored.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(*names))
        yield
