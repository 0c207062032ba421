"""The devices of a command, and its other ranks where a launcher started several."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gim_bench.errors import ConfigError

if TYPE_CHECKING:
    from gim_bench.training.agents import Ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the cells of a command run."""

    device: str
    devices: list[str]  # of the workers of a cell, in order; empty where nobody named them
    ranks: "Ranks | None" = None


@contextmanager
def rank_0_alone() -> Iterator[None]:
    """A block for rank 0, or a process without ranks. Another rank ends the command with code 0.

    Raises: ConfigError.
    """
    if os.environ.get("RANK", "0") != "0":  # else PyTorch need not be imported
        from gim_bench.hardware.ranks import rank_of

        if (rank := rank_of(os.environ)) is not None and rank.number:
            print(
                f"rank {rank.number} of {rank.ranks} (WORLD_SIZE) ends: rank 0 runs this command",
                file=sys.stderr,
            )
            raise typer.Exit
    yield


@contextmanager
def placed(
    device: str, *, devices: str | None, launcher: str, data_dir: Path | None, joins: bool
) -> Iterator[Place]:
    """The devices; for a command that `joins`, with the other ranks, which end with the block.

    In another rank than 0 this does the work that rank 0 has for it, and ends the command.
    Raises: ConfigError or ConnectionError.
    """
    from gim_bench.hardware.devices import listed_devices, resolve_device
    from gim_bench.hardware.ranks import rank_of

    named = [] if devices is None else listed_devices(devices, device=device)
    if named and launcher != "local":
        raise ConfigError(
            f"--devices {devices} is for workers of this machine, and --launcher {launcher} has "
            f"cells run on others: leave out one of them"
        )
    rank = rank_of(os.environ)
    if rank is not None and launcher != "local":
        raise ConfigError(
            f"--launcher {launcher} in one of {rank.ranks} ranks (WORLD_SIZE), each of which would "
            f"have all cells run: leave out --launcher, or start one process"
        )
    if rank is not None and rank.number and not joins:
        raise typer.Exit
    if rank is None or not joins:
        for name in named:
            resolve_device(name, option="--devices")
        yield Place(device=named[0] if named and device == "auto" else device, devices=named)
        return
    from gim_bench.cells.ranks import attended, check_hellos, device_of_rank
    from gim_bench.training.agents import Ranks

    if rank.number:
        print(f"rank {rank.number} of {rank.ranks} works for rank 0", file=sys.stderr)
        attended(rank, device=device, named=named, data_dir=data_dir)
        raise typer.Exit
    ranks = Ranks(rank)
    try:
        hellos = ranks.gather()
        own = device_of_rank(rank, device=device, named=named)
        check_hellos(hellos, device=own)
        yield Place(device=own, devices=[own, *(hello.device for hello in hellos)], ranks=ranks)
    finally:
        ranks.close()
