"""The place that a launcher gives a process, and the address at which others reach it."""

import socket
from dataclasses import replace

import psutil
import pytest

from gim_bench.errors import ConfigError
from gim_bench.hardware import ranks
from gim_bench.hardware.process_group import interface_of
from gim_bench.hardware.ranks import Rank, rank_of

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip
OF_SRUN = {name: TORCHRUN[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}


def test_torchrun_gives_a_place():
    assert rank_of(TORCHRUN) == Rank(
        number=3, ranks=4, local=1, here=2, address="10.0.0.1", port=29500, attempt="1",
        has_store=True,
    )  # fmt: skip


def test_four_variables_suffice_where_each_machine_has_one_rank():
    assert rank_of(OF_SRUN) == Rank(
        number=3, ranks=4, local=0, here=1, address="10.0.0.1", port=29500, attempt="0",
        has_store=False,
    )  # fmt: skip


@pytest.mark.parametrize("missing", [{"RANK"}, {"MASTER_ADDR", "MASTER_PORT"}, set(OF_SRUN)])
def test_a_process_without_the_variables_is_alone(missing):
    assert rank_of({name: text for name, text in TORCHRUN.items() if name not in missing}) is None


def test_a_world_of_one_is_alone():
    assert rank_of({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}) is None


@pytest.mark.parametrize(
    ("name", "text"), [("WORLD_SIZE", "two"), ("RANK", "-1"), ("MASTER_PORT", "http")]
)
def test_a_variable_that_is_no_number_gets_one_line(name, text):
    with pytest.raises(ConfigError) as error:
        rank_of({**TORCHRUN, name: text})
    assert str(error.value) == f"{name} is {text!r} in the environment: torchrun sets a number"


@pytest.mark.parametrize(
    ("here", "address"), [(4, "10.0.0.1"), (1, "127.0.0.1"), (1, "localhost"), (2, "127.0.1.1")]
)
def test_ranks_of_one_machine_listen_on_the_loopback_address(here, address):
    found = rank_of({**TORCHRUN, "LOCAL_WORLD_SIZE": str(here), "MASTER_ADDR": address})
    assert found is not None
    assert found.own_address == "127.0.0.1"


class Way:
    """A socket of a machine with the address 10.0.0.7, where host-a leads to its loopback."""

    def __init__(self, *_):
        self.to = ""

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def connect(self, address):
        self.to, _ = address
        if self.to == "nowhere":
            raise OSError(-2, "Name or service not known")

    def getsockname(self):
        return ("127.0.0.1" if self.to == "host-a" else "10.0.0.7", 40000)


@pytest.fixture
def of_several_machines(monkeypatch):
    monkeypatch.setattr(ranks.socket, "socket", Way)
    found = rank_of(TORCHRUN)
    assert found is not None
    return found


def test_ranks_of_several_machines_listen_on_the_address_that_leads_to_rank_0(of_several_machines):
    assert of_several_machines.own_address == "10.0.0.7"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("host-a", "MASTER_ADDR 'host-a' is the loopback address on its own machine"),
        ("nowhere", "MASTER_ADDR 'nowhere' leads nowhere (Name or service not known)"),
    ],
)
def test_an_address_that_others_cannot_reach_gets_one_line(address, said, of_several_machines):
    with pytest.raises(ConfigError) as error:
        _ = replace(of_several_machines, address=address).own_address
    assert str(error.value).startswith(said)
    assert "by its IPv4 address" in str(error.value)


def test_a_store_of_its_own_listens_on_the_loopback_address_alone():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = rank_of({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost",
                     "MASTER_PORT": str(port)})  # fmt: skip
    assert found is not None
    store = found.store()
    replace(found, number=1).store().set("key", "value")
    assert store.get("key") == b"value"
    mine = psutil.Process().net_connections()
    listening = {c.laddr.ip for c in mine if c.status == "LISTEN" and c.laddr.port == port}
    assert listening == {"127.0.0.1"}


def test_a_rank_beyond_the_others_gets_one_line():
    with pytest.raises(ConfigError, match=r"^RANK is 4 in the environment, and WORLD_SIZE 4"):
        rank_of({**TORCHRUN, "RANK": "4"})


def test_an_interface_is_found_by_its_address():
    assert interface_of("127.0.0.1") in psutil.net_if_addrs()
    assert interface_of("203.0.113.1") is None


@pytest.mark.parametrize("number", [0, 1])
def test_a_port_without_a_store_gets_one_line(number, monkeypatch):
    monkeypatch.setattr(ranks, "MEETING_SECONDS", 0.0)
    found = Rank(number=number, ranks=2, local=0, here=2, address="127.0.0.1", port=1,
                 attempt="0", has_store=True)  # fmt: skip

    def refused(self, *, is_master=False):
        raise RuntimeError("The client socket has failed to connect\nwith a trace")

    monkeypatch.setattr(Rank, "connected", refused)
    with pytest.raises(ConnectionError) as error:
        found.store()
    assert str(error.value) == (
        f"rank {number} of 2 finds no store at 127.0.0.1 port 1 (The client socket has failed to "
        f"connect): is rank 0 there, and the port free?"
    )
