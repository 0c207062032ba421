"""A folder with a tiny suite, in which commands are run."""

import shutil

import pytest

from gim_bench import registry
from gim_bench.errors import TrackingError
from gim_bench.tracking import Tracker
from tests.cli import commands
from tests.cli.commands import PLAIN
from tests.stores import empty_store
from tests.tiny_suite import MISBEHAVING, SPEECH_TOML, TOML, noise_registered


def prepare(folder, monkeypatch):
    """Make `folder` the current folder, with tiny.toml; hide GPUs and the address of a store."""
    (folder / "tiny.toml").write_text(TOML)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GIM_BENCH_CACHE", str(folder / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # tiny cells are for the CPU
    # On a busy machine, cells take so long that they are mirrored as they train.
    monkeypatch.setattr("gim_bench.tracking.following._watch", lambda *_: None)
    # It would hold for all tests of the process, of which some measure memory.
    monkeypatch.setattr("gim_bench.hardware.memory.keep_freed_blocks", lambda: None)


@pytest.fixture
def gim_bench(tmp_path, monkeypatch):
    """Runs commands in a folder of their own, which holds tiny.toml."""
    prepare(tmp_path, monkeypatch)
    return commands.gim_bench


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory):
    """The folder in which the tiny suite was run, and the answer of that run."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch)
        answer = commands.gim_bench(*PLAIN)
    assert answer.code == 0, answer.err
    return folder, answer


@pytest.fixture
def finished(finished_once, gim_bench, tmp_path):
    """The answer of a run of the tiny suite, whose records are in the current folder."""
    folder, answer = finished_once
    shutil.copytree(folder / "runs", tmp_path / "runs")
    return answer


@pytest.fixture
def misbehaving(monkeypatch):
    """Registers methods that fail."""
    table = {**registry.methods(), **MISBEHAVING}
    monkeypatch.setattr(registry, "methods", lambda: table)


@pytest.fixture
def speech(tmp_path):
    """speech.toml beside tiny.toml, on noise for speech."""
    (tmp_path / "speech.toml").write_text(SPEECH_TOML)
    with noise_registered():
        yield "./speech.toml"


@pytest.fixture
def store(tmp_path):
    """A store by its full path: within a process MLflow keeps a store open by its address."""
    (tmp_path / "mlflow.db").write_bytes(empty_store())
    return ("--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db")


class Mirror:
    """Takes MLflow's place. Mirroring fails while `broken` is set."""

    def __init__(self, monkeypatch):
        self.broken, self.asked, self.mirrored, self.summaries = False, 0, [], []

        def mirror(_, record, *, folder=None):
            self.answer()
            self.mirrored.append((record.method, record.status.value))

        def summarise(_, suite, records, *, place=""):
            self.answer()
            self.summaries.append([record.method for record in records])

        monkeypatch.setattr(Tracker, "mirror", mirror)
        monkeypatch.setattr(Tracker, "summarise", summarise)

    def answer(self):
        self.asked += 1
        if self.broken:
            raise TrackingError("cannot track to 'sqlite:///mlflow.db': it went away")


@pytest.fixture
def mirror(monkeypatch):
    return Mirror(monkeypatch)
