"""Processes of one command on several machines: how they meet, and what address they listen on.

torchrun starts them with the variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and so does
any launcher that sets these. Nothing that they exchange is encrypted: the network is trusted.
"""

import ipaddress
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from gim_bench.errors import ConfigError, first_line
from gim_bench.hardware.process_group import LOOPBACK, Meeting

MEETING_SECONDS = 300.0  # until all processes are there
ATTEMPT_SECONDS = 10.0  # to reach the store: no signal is heard in between
LOOK_SECONDS = 0.1  # between looks into the store
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """The place of this process among those of the command."""

    number: int  # from 0
    ranks: int
    local: int  # number among those of this machine
    here: int  # ranks of this machine
    address: str  # of rank 0
    port: int  # of the store at that address
    attempt: str  # counts restarts by torchrun
    has_store: bool  # torchrun keeps it; else rank 0 does

    @property
    def alone(self) -> bool:
        """Whether all ranks are on this machine."""
        return self.here == self.ranks or _is_loopback(self.address)

    @property
    def own_address(self) -> str:
        """The address at which others reach this machine: the loopback if nobody else has to.

        Raises: ConfigError.
        """
        if self.alone:
            return LOOPBACK
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:  # sends nothing
                way.connect((self.address, self.port))
                found: str = way.getsockname()[0]
        except OSError as error:
            raise ConfigError(
                f"MASTER_ADDR {self.address!r} leads nowhere ({error.strerror or error}): name the "
                f"machine of rank 0 by its IPv4 address"
            ) from None
        if _is_loopback(found):
            raise ConfigError(
                f"MASTER_ADDR {self.address!r} is the loopback address on its own machine, which "
                f"no other machine reaches: name it by its IPv4 address"
            )
        return found

    def store(self) -> Store:
        """The keys that all ranks share. Raises: ConnectionError where nobody answers."""
        until = time.monotonic() + MEETING_SECONDS
        while True:
            try:
                found = self.connected(is_master=self.number == 0 and not self.has_store)
            except (RuntimeError, ValueError, OSError) as error:
                if time.monotonic() > until or self.number == 0:
                    raise ConnectionError(
                        f"rank {self.number} of {self.ranks} finds no store at {self.address} port "
                        f"{self.port} ({first_line(error)}): is rank 0 there, and the port free?"
                    ) from None
                time.sleep(LOOK_SECONDS)
            else:
                return found

    def connected(self, *, is_master: bool = False) -> Store:
        """One attempt at the store. Raises: RuntimeError or OSError."""
        listening = None
        if is_master:  # by itself a store listens on all interfaces
            with socket.create_server((self.own_address, self.port)) as server:
                listening = server.detach()
        store = TCPStore(
            LOOPBACK if self.alone and not self.has_store else self.address,
            self.port,
            is_master=is_master,
            wait_for_workers=False,
            timeout=timedelta(seconds=ATTEMPT_SECONDS),
            master_listen_fd=listening,
        )
        return PrefixStore(f"gim_bench/{self.attempt}", store)


def rank_of(environment: Mapping[str, str]) -> Rank | None:
    """The place that a launcher gave this process; None for a command that is one process.

    Raises: ConfigError where a variable is no number.
    """
    if not all(environment.get(name) for name in VARIABLES):
        return None
    ranks, number = _number(environment, "WORLD_SIZE"), _number(environment, "RANK")
    if ranks < 2:
        return None
    if number >= ranks:
        raise ConfigError(f"RANK is {number} in the environment, and WORLD_SIZE {ranks}: lower it")
    return Rank(
        number=number,
        ranks=ranks,
        local=_number(environment, "LOCAL_RANK", default=0),
        here=_number(environment, "LOCAL_WORLD_SIZE", default=1),
        address=environment["MASTER_ADDR"],
        port=_number(environment, "MASTER_PORT"),
        attempt=environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
        has_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMeeting(Meeting):
    """The store of all ranks, in which the workers of one training find each other."""

    rank: Rank  # of any of them
    group: str  # a name that no other training has

    @property
    def address(self) -> str:
        return self.rank.own_address

    def store(self, processes: int) -> Store:
        return PrefixStore(self.group, self.rank.connected())


def _number(environment: Mapping[str, str], name: str, *, default: int | None = None) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r} in the environment: torchrun sets a number")
    return int(text)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
