"""Outputs of frozen modules on disk, so that a module trained in sequence runs no other module.

A file holds whole batches, one after the other, each with a checksum. An interrupted write resumes
where it stopped, and a damaged batch is computed again.
"""

import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gim_bench import seeding
from gim_bench.contract import Batch
from gim_bench.errors import RoomError
from gim_bench.hardware.transfers import moved
from gim_bench.progress import Progress

CHECKSUM_BYTES = 4  # CRC-32
SUMS = ".crc32"  # suffix of the file of checksums

Encode = Callable[[Batch], Batch]  # from a batch to the batch that a unit hands on


@runtime_checkable
class Source(Protocol):
    """Batches of training, epoch by epoch."""

    @property
    def batch_size(self) -> int: ...
    @property
    def stream(self) -> tuple[str, int]: ...
    def __len__(self) -> int: ...
    def epoch(self, number: int) -> Iterator[Batch]: ...
    def validation(self) -> Iterator[Batch]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Keeps outputs in a folder, in one number format."""

    folder: Path
    epochs: int  # how many epochs' outputs are kept, each with its own augmentations
    dtype: torch.dtype
    progress: Progress

    def make_room(self, source: Source, encoders: Mapping[str, Encode]) -> int:
        """Say how large the outputs of each unit will be, and return the bytes of the largest.

        Outputs of one unit are held at a time. Raises: RoomError before training where the disk has
        no room for them.
        """
        if not encoders:
            return 0
        batch = next(source.epoch(1))
        sizes = {
            unit: self.epochs * len(source) * _stacked(encode(batch)).numel() * self.dtype.itemsize
            for unit, encode in encoders.items()
        }
        return check_room(
            sizes,
            folder=self.folder,
            progress=self.progress,
            remedy=f"lower training.kept_outputs.epochs ({self.epochs})",
        )

    def keep(self, source: Source, encode: Encode, *, unit: str, identity: str) -> "KeptOutputs":
        """Outputs of `unit` for the first epochs of `source`; `encode` computes them.

        Batches that an interrupted call wrote are used as far as their checksums agree. Files of
        other units, or of other weights, are removed first. Raises: OSError.
        """
        path = outputs_file(self.folder, unit=unit, identity=identity)
        labels: dict[str, list[Tensor]] = {}
        outputs = None
        total = self.epochs * len(source)
        title = f"keeping outputs of {unit}"
        with (
            ledger_at(path) as ledger,
            self.progress.task(title, total=total, unit="step") as task,
        ):
            for epoch in range(self.epochs):
                for batch in source.epoch(epoch + 1):
                    for target, values in batch.labels.items():
                        labels.setdefault(target, []).append(values.cpu())
                    if outputs is None or not ledger.holds_next():
                        outputs = _stacked(encode(batch))
                        ledger.write(self._held(outputs))
                    ledger.advance()
                    task.advance()
        assert outputs is not None, "a source has a batch or more"
        # Shared, though only read: a private mapping would have to fit into memory and swap.
        values = torch.from_file(
            str(path), shared=True, size=total * outputs.numel(), dtype=self.dtype
        )
        rows = len(source) * source.batch_size
        return KeptOutputs(
            values.view(self.epochs, rows, *outputs.shape[1:]),
            labels={
                target: torch.cat(of_target).unflatten(0, (self.epochs, rows))
                for target, of_target in labels.items()
            },
            unit=unit,
            like=outputs,
            source=source,
        )

    def pieces(self, source: Source, *, unit: str) -> int:
        """Pieces in which the outputs of `unit` are computed: batches."""
        return self.batches(source)

    def piece(self, source: Source, encode: Encode, *, unit: str) -> Tensor:
        """The first piece as the file holds it, to time how long one takes."""
        return self._held(_stacked(encode(next(source.epoch(1)))))

    def batches(self, source: Source) -> int:
        """Batches whose outputs of a unit are computed."""
        return self.epochs * len(source)

    def clear(self) -> None:
        """Remove all kept outputs."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _held(self, outputs: Tensor) -> Tensor:
        return outputs.to("cpu", self.dtype).contiguous()


class KeptOutputs:
    """Outputs of a unit as batches: a `Source` for the units above.

    The first epochs are those of the source, batch for batch. Later epochs visit the same
    augmentations again, each in a new order.
    """

    def __init__(
        self,
        values: Float[Tensor, "epoch row view *shape"],
        *,
        labels: Mapping[str, Int[Tensor, "epoch row *step"]],
        unit: str,
        like: Tensor,
        source: Source,
    ) -> None:
        """Batches have the number format and the device of `like`."""
        self.values = values
        self.labels = labels
        self.unit = unit
        self.dtype, self.device = like.dtype, like.device
        self.source = source
        self.batch_size = source.batch_size
        self.stream = source.stream

    def __len__(self) -> int:
        return self.values.shape[1] // self.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        epochs, rows = self.values.shape[:2]
        kept = (number - 1) % epochs
        order = torch.arange(rows)
        if number > epochs:
            draw = seeding.generator("kept outputs", *self.stream, number)
            order = torch.randperm(rows, generator=draw)
        for chosen in order.split(self.batch_size):
            values = moved(self.values[kept, chosen], device=self.device).to(self.dtype)
            first, *further = values.unbind(1)
            yield Batch(
                inputs=first,
                labels={
                    target: moved(labels[kept, chosen], device=self.device)
                    for target, labels in self.labels.items()
                },
                further=tuple(further),
                encoded_by=self.unit,
            )

    def validation(self) -> Iterator[Batch]:
        return self.source.validation()


def _stacked(batch: Batch) -> Float[Tensor, "example view *shape"]:
    return torch.stack(batch.views, dim=1)


def check_room(sizes: Mapping[str, int], *, folder: Path, progress: Progress, remedy: str) -> int:
    """Say how many bytes the outputs of each unit take, and return the bytes of the largest.

    Raises: RoomError with a `remedy` where the disk of `folder` has no room for the largest.
    """
    needed = max(sizes.values(), default=0)
    there = sum(file.stat().st_size for file in folder.glob("*"))
    free = shutil.disk_usage(folder.parent).free + there
    listed = ", ".join(f"{unit} {size / 1e9:,.2f} GB" for unit, size in sizes.items())
    if needed > free:
        raise RoomError(
            f"the outputs to keep of {listed} need {needed / 1e9:,.2f} GB at a time, but "
            f"{folder} has room for {free / 1e9:,.2f} GB: {remedy}, or leave out "
            f"training.kept_outputs, and outputs are computed at every step"
        )
    if listed:
        progress.say(f"keeping outputs of {listed}, at most {needed / 1e9:,.2f} GB at a time")
    return needed


def outputs_file(folder: Path, *, unit: str, identity: str) -> Path:
    """The file of the outputs of `unit`; files of other units or other weights are removed."""
    path = folder / f"{unit}-{identity[:16]}.outputs"
    for other in folder.glob("*"):
        if other.stem != path.stem:
            other.unlink()
    return path


class Ledger:
    """A file of equal batches, and beside it the checksum of each.

    Whether the next batch is there already is known once its size is: after the first one.
    """

    def __init__(self, batches: BinaryIO, sums: BinaryIO) -> None:
        self._batches, self._sums = batches, sums
        self._size = 0
        self._next = 0

    def holds_next(self) -> bool:
        """Whether the next batch was written before and is whole."""
        if not self._size:
            return False
        self._batches.seek(self._next * self._size)
        self._sums.seek(self._next * CHECKSUM_BYTES)
        found = self._batches.read(self._size)
        return len(found) == self._size and self._sums.read(CHECKSUM_BYTES) == checksum(found)

    def write(self, values: Tensor) -> None:
        """In the place of the next batch."""
        content = values.flatten().view(torch.uint8).numpy().data
        self._size = content.nbytes
        self._batches.seek(self._next * self._size)
        self._batches.write(content)
        self._sums.seek(self._next * CHECKSUM_BYTES)
        self._sums.write(checksum(content))

    def advance(self) -> None:
        self._next += 1


@contextmanager
def ledger_at(path: Path) -> Iterator[Ledger]:
    """The ledger at `path`, which need not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sums = path.with_suffix(SUMS)
    for file in (path, sums):
        file.touch()
    with path.open("r+b") as open_batches, sums.open("r+b") as open_sums:
        yield Ledger(open_batches, open_sums)


def checksum(content: "bytes | bytearray | memoryview") -> bytes:
    return zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little")


def identity_of(parameters: Sequence[Tensor]) -> str:
    """sha256 of weights: outputs of other weights are other outputs."""
    found = hashlib.sha256()
    for parameter in parameters:
        found.update(parameter.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
