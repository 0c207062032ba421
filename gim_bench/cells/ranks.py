"""Cells whose pipelines have a worker on each rank: devices and code of the ranks, and checks."""

import platform
from collections.abc import Callable, Iterable, Sequence

import torch

from gim_bench import registry
from gim_bench.cells.bench import Bench
from gim_bench.cells.cell import Cell
from gim_bench.cells.pipelines import workers_of
from gim_bench.cells.shares import ANY_GPU
from gim_bench.errors import ConfigError
from gim_bench.hardware.devices import resolve_device
from gim_bench.hardware.ranks import Rank
from gim_bench.records.folder import RunsFolder
from gim_bench.records.provenance import code_sha256
from gim_bench.records.record import Record
from gim_bench.settings.schema import CellConfig, Suite
from gim_bench.training.pipeline.agents import Hello, Ranks, attend


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


def attended(rank: Rank, *, device: str, named: Sequence[str]) -> None:
    """Work for rank 0 to the end. Raises: ConnectionError."""
    hello = Hello(rank.number, platform.node(), _code(), device="", error="")
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
    """The pipelines of the suite have a worker for each rank. Raises: ConfigError."""
    count = rank.ranks
    started = f"{count} ranks were started (WORLD_SIZE), for a pipeline with a worker on each"
    pipelines = {c.method.name: c for c in configs if workers_of(c)}
    if not pipelines:
        raise ConfigError(
            f"{started}, and no cell is one: add --set training.schedule=pipeline, or start one "
            f"process"
        )
    if suite.fresh_process:
        raise ConfigError(
            f"{started}, and suite {suite.name!r} has each cell in a fresh process, which is not "
            f"their parent: add --set fresh_process=false"
        )
    for name, config in pipelines.items():
        if (workers := workers_of(config)) != count:
            raise ConfigError(
                f"{started}, and {name!r} has {workers} worker(s): start {workers}, or add --set "
                f"training.workers={count}, or choose rows by --method"
            )
        if config.training.buffer is not None:
            raise ConfigError(
                f"{started}, and those of {name!r} do not wait for each other (training.buffer), "
                f"which needs shared memory: leave {name!r} out by --method"
            )


def devices_in_words(config: CellConfig, bench: Bench) -> list[str]:
    """The named device of each worker of a cell, with its machine where there are several."""
    if not workers_of(config):
        return []
    if bench.ranks is None:
        return [*bench.devices]
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
