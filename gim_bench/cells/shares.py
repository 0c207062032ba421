"""How the cores of one machine are shared out between cells: worker processes, threads of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gim_bench.cells.cell import Cell
from gim_bench.hardware.threads import available_bytes, cores, threads_asked_for
from gim_bench.registry import encoder as encoder_class
from gim_bench.settings.schema import CellConfig

ANY_GPU = "cuda"  # a device without a number
SMALL_PARAMETERS = 10**6  # of an encoder whose step is too short for threads to pay
WORKER_BYTES = 2 * 2**30  # of memory that a worker of small cells may need


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How the cores of this machine are shared out."""

    workers: int
    threads: int  # of each worker

    def settle(self) -> None:
        """Compute with a worker's threads in this process, too."""
        torch.set_num_threads(self.threads)

    def __str__(self) -> str:
        return (
            f"{self.workers} worker{'s' if self.workers > 1 else ''} of {self.threads} "
            f"thread{'s' if self.threads > 1 else ''}"
        )


def share_out(
    waiting: Sequence[Cell], *, device: torch.device, workers: int | None, alone: bool
) -> Share:
    """Workers and threads for the cells; `workers` None: as many as serve.

    Small cells are computed by one thread each, however many cores there are: two such workers are
    faster than two threads, and numbers do not depend on the machine's number of cores. Larger
    cells take all cores. OMP_NUM_THREADS overrules the threads. Without `alone`, cells may run
    beside each other.
    """
    small = device.type == "cpu" and all_small(waiting)
    asked = threads_asked_for()
    if workers is None:
        workers = 1
        if str(device) == ANY_GPU:
            workers = devices_of(device)
        elif small:
            room = available_bytes() // WORKER_BYTES
            workers = min(cores() // (asked or 1), room)
    workers = 1 if alone else max(1, min(workers, len(waiting)))
    if asked is not None:
        return Share(workers=workers, threads=asked)
    return Share(workers=workers, threads=1 if small else max(1, cores() // workers))


def device_of(number: int, device: torch.device) -> str:
    """The device of a worker: GPUs are shared out, unless one was named."""
    if str(device) == ANY_GPU:
        return f"cuda:{number % devices_of(device)}"
    return str(device)


def devices_of(device: torch.device) -> int:
    """How many GPUs are shared out."""
    return torch.cuda.device_count() if str(device) == ANY_GPU else 1


def all_small(cells: Sequence[Cell]) -> bool:
    """Whether every cell is small."""
    distinct = {(str(c.config.encoder), c.config.augmentation.shape): c.config for c in cells}
    return all(is_small(config) for config in distinct.values())


def is_small(config: CellConfig) -> bool:
    """Whether threads would wait for each other longer than they save in a step of the encoder.

    An encoder that cannot be sketched without memory is not small, as far as is known.
    """
    try:
        with torch.device("meta"):
            encoder = encoder_class(config.encoder.kind)(
                config.encoder, shape=config.augmentation.shape
            )
    except Exception:  # of absurd sizes, or of a plug-in that computes with numbers; the cell tells
        return False
    return sum(weights.numel() for weights in encoder.parameters()) < SMALL_PARAMETERS
