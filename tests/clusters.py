"""A real Slurm on this machine: a controller and two made-up nodes of two cores and two GPUs each.

All daemons run as the user of the tests, without munge, on the loopback address.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
START_SECONDS = 120
NODES = ("n1", "n2")

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=60
MinJobAge=600
SlurmdTimeout=60
InactiveLimit=0
GresTypes=gpu
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] \
CPUs=2 RealMemory=16000 Gres=gpu:made_up:2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
GPUS = """\
AutoDetect=off
Name=gpu Type=made_up File=/dev/null
Name=gpu Type=made_up File=/dev/zero
"""


def missing() -> str:
    """Why there can be no Slurm here; empty if there can be."""
    folders = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=folders) is None]
    return f"Slurm is not installed (no {', '.join(absent)}): apt install slurm-wlm" * bool(absent)


class Slurm:
    """The cluster, whose files lie in `folder`; commands find it by SLURM_CONF."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"

    def ask(self, *command: str) -> str:
        """The output of one of Slurm's programs."""
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout

    def state(self, job: str) -> str:
        """The state of a task as in "RUNNING", also after its end."""
        lines = self.ask("scontrol", "--oneliner", "show", "job", job)
        return lines.partition("JobState=")[2].partition(" ")[0]

    def kill_node(self, name: str) -> None:
        """The daemon of a node dies; its jobs live on."""
        os.kill(int((self.folder / f"{name}.pid").read_text()), signal.SIGKILL)

    def start(self) -> None:
        for name in ("state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        text = CONFIGURATION.format(
            folder=self.folder,
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            ports=_three_ports(),
            nodes=f"n[1-{len(NODES)}]",
        )
        self.configuration.write_text(text)
        (self.folder / "gres.conf").write_text(GPUS)
        for command in (["slurmctld"], *(["slurmd", "-N", node] for node in NODES)):
            subprocess.run(
                [*command, "-f", str(self.configuration)],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        wait_until(lambda: self.ask("sinfo", "-h", "-o", "%T %D") == f"idle {len(NODES)}\n")

    def stop(self) -> None:
        """End all jobs and daemons."""
        with suppress(subprocess.SubprocessError):
            self.ask("scancel", "--me", "--full", "--signal=KILL")
            self.ask("scancel", "--me")
        for file in self.folder.glob("*.pid"):
            with suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)


@contextmanager
def slurm_in(folder: Path) -> Iterator[Slurm]:
    """A Slurm that ends with the block; within, SLURM_CONF and PATH lead to it."""
    before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    cluster = Slurm(folder)
    os.environ["SLURM_CONF"] = str(cluster.configuration)
    os.environ["PATH"] = f"{before['PATH']}:/usr/sbin:/sbin"
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def wait_until(is_so: Callable[[], bool], *, seconds: float = START_SECONDS) -> None:
    """Raises: TimeoutError."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {seconds} s")
        time.sleep(0.1)


def _three_ports() -> Sequence[int]:
    """Ports that nobody uses, the last two in a row."""
    for first in range(17_000, 60_000, 7):
        ports = range(first, first + 3)
        with suppress(OSError):
            for port in ports:
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", port))
            return list(ports)
    raise OSError("no three ports in a row are free")
