"""Cells with a worker on each rank: devices, code and data of the ranks, and checks."""

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from gim_bench import registry
from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.data_parallel import processes_of
from gim_bench.cells.parts import datasets_of_workers
from gim_bench.cells.pipelines import processes_beside, workers_of
from gim_bench.cells.shares import ANY_GPU
from gim_bench.contract import Dataset
from gim_bench.errors import ConfigError, DataError
from gim_bench.hardware.devices import resolve_device
from gim_bench.hardware.ranks import Rank
from gim_bench.records.folder import RunsFolder
from gim_bench.records.provenance import code_sha256
from gim_bench.records.record import Record
from gim_bench.settings.schema import CellConfig, Suite
from gim_bench.training.agents import CrewOfRanks, Hello, Ranks, attend
from gim_bench.training.workers import at_post, tell


def device_of_rank(rank: Rank, *, device: str, named: Sequence[str]) -> str:
    """The device of this rank's worker: the one named for it, else the GPU of its local number.

    Raises: ConfigError.
    """
    if named:
        if len(named) != rank.ranks:
            raise ConfigError(
                f"--devices {','.join(named)} has {len(named)} device(s), and there are "
                f"{rank.ranks} ranks: name one for each"
            )
        return str(resolve_device(named[rank.number], option="--devices"))
    found = resolve_device(device)
    if str(found) == ANY_GPU:
        found = resolve_device(f"cuda:{rank.local}")
    return str(found)


def attended(rank: Rank, *, device: str, named: Sequence[str], data_dir: Path | None) -> None:
    """Work for rank 0 to the end. Raises: ConnectionError."""
    hello = Hello(rank.number, platform.node(), _code(), "", data_dir=data_dir, error="")
    try:
        hello = hello._replace(device=device_of_rank(rank, device=device, named=named))
    except ConfigError as error:  # rank 0 says so, for all
        hello = hello._replace(error=str(error))
    attend(rank, hello)


def check_hellos(hellos: Iterable[Hello], *, device: str) -> None:
    """All ranks have the code of rank 0, and a `device` of its kind. Raises: ConfigError."""
    for hello in hellos:
        if hello.code != _code():
            raise ConfigError(
                f"{hello} has other code than rank 0 ({hello.code}; here {_code()}): install the "
                f"same version on all machines"
            )
        if hello.error:
            raise ConfigError(f"{hello}: {hello.error}")
        if torch.device(hello.device).type != torch.device(device).type:
            raise ConfigError(
                f"{hello} has the device {hello.device}, and rank 0 has {device}: say --device "
                f"cpu, or start ranks on machines with GPUs alone"
            )


def check_cells(suite: Suite, configs: Iterable[CellConfig], rank: Rank) -> None:
    """The cells of the suite have a worker for each rank. Raises: ConfigError."""
    count = rank.ranks
    started = f"{count} ranks were started (WORLD_SIZE)"
    cells = {c.method.name: c for c in configs if processes_beside(c)}
    if not cells:
        raise ConfigError(
            f"{started}, and no cell has workers for them: add --set training.processes={count} or "
            f"--set training.schedule=pipeline, or start one process"
        )
    if suite.fresh_process:
        raise ConfigError(
            f"{started}, and suite {suite.name!r} has each cell in a fresh process, which is not "
            f"their parent: add --set fresh_process=false"
        )
    for name, config in cells.items():
        if (processes := processes_of(config)) not in (0, count):
            raise ConfigError(
                f"{started}, and the batches of {name!r} are shared by training.processes = "
                f"{processes}: start {processes}, or add --set training.processes={count}"
            )
        if (workers := workers_of(config)) not in (0, count):
            raise ConfigError(
                f"{started}, and {name!r} has {workers} worker(s): start {workers}, or add --set "
                f"training.workers={count}, or choose rows by --method"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """The place of a process that reads a rank's data."""

    make: Callable[[], Dataset]
    parent: Connection


def check_data(bench: Bench, ranks: Ranks, *, sha256: str) -> None:
    """All ranks have the data of rank 0, with that checksum. Raises: DataError."""
    crew = CrewOfRanks(ranks)
    try:
        _, *others = datasets_of_workers(bench, workers=ranks.rank.ranks)
        for agent, make in zip(ranks.agents, others, strict=True):
            post = partial(_Reader, make=make)
            crew.hire_of(agent, "the reader of the data", _tell_checksum, post, threads=1)
        for agent, reader in zip(ranks.agents, crew.workers, strict=True):
            try:
                (found,) = crew.hear(reader, "checksum")
            except DataError as error:
                raise DataError(f"{agent.hello}: {error}") from None
            if found != sha256:
                at = f" in {agent.hello.data_dir}" if agent.hello.data_dir else ""
                raise DataError(
                    f"{agent.hello} has other data{at} (checksum {found[:16]}) than rank 0 "
                    f"({sha256[:16]}): give all ranks the same files, by --data-dir or a folder "
                    f"that all of them see"
                )
    finally:
        crew.end()


def _tell_checksum(reader: _Reader) -> None:
    """Tell rank 0 the checksum of this rank's data."""
    at_post(reader.parent, lambda: tell(reader.parent, "checksum", reader.make().fingerprint()))


def devices_in_words(config: CellConfig, bench: Bench) -> list[str]:
    """The device of each worker of a cell: where it was named, or with its machine on ranks."""
    if bench.ranks is None:
        return [*bench.devices] if workers_of(config) else []
    if not processes_beside(config):
        return []
    hosts = [platform.node(), *(agent.hello.host for agent in bench.ranks.agents)]
    return [f"{device} on {host}" for device, host in zip(bench.devices, hosts, strict=True)]


def with_all_ranks(run: Callable[..., Record], ranks: Ranks) -> Callable[..., Record]:
    """`run` for a cell, which first raises ConnectionError where a rank is gone."""

    def checked(cell: Cell, bench: Bench, *, runs: RunsFolder) -> Record:
        ranks.check()
        return run(cell, bench, runs=runs)

    return checked


def _code() -> str:
    known = [f"code {code_sha256()[:16]}", f"PyTorch {torch.__version__}", *registry.plugins()]
    return ", ".join(known)
