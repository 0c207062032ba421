"""Memory straight from the system, of which blocks that malloc has kept from others are no part."""

import mmap

import numpy as np


def written(size: int) -> np.ndarray:
    """So many bytes that are in memory; the system has them back when the array goes."""
    pages = np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
    pages.fill(1)
    return pages
