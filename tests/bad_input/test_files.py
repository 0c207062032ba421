"""Binaries, archives, checkpoints and weights that were damaged or made by something else."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import save

from gim_bench.contract import Split
from gim_bench.datasets.files import ArchiveError, unpack
from gim_bench.datasets.images import stl10
from gim_bench.datasets.images.stl10 import STL10
from gim_bench.datasets.speech.librispeech import LibriSpeech
from gim_bench.progress import Silence
from gim_bench.records.folder import RECORD, RunsFolder
from gim_bench.seals import sealed
from gim_bench.training.checkpoints import DIGEST, Checkpoints
from tests.bad_input.feed import (
    Answer,
    check_answer,
    damaged,
    fed,
    folder_of_its_own,
    gim_bench,
    result_or_line,
)
from tests.datasets.images.test_stl10 import COUNTS, binaries
from tests.listener import Listener
from tests.records.test_folder import record
from tests.tiny_suite import TOML

# -- STL-10 ----------------------------------------------------------------------------------------


@fed(40, name=st.sampled_from(sorted(binaries())), data=st.data())
def test_a_damaged_binary_is_read_or_refused_in_a_line(name, data):
    content = data.draw(damaged((binaries()[name],)))
    with folder_of_its_own() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stl10, "COUNTS", COUNTS)
        for other, good in binaries().items():
            (folder / other).write_bytes(content if other == name else good)
        data_set = STL10(options=STL10.Options(), data_dir=folder, cache_dir=folder / "cache")
        with result_or_line():
            labels = data_set.split(Split.TRAIN).labels["class"]
            assert ((labels >= 0) & (labels < len(data_set.targets()[0].classes))).all()
        with result_or_line():
            data_set.verify()  # the checksums, which are the official files'


# -- archives --------------------------------------------------------------------------------------

INSIDE = "LibriSpeech/train-clean-100/1/2/1-2-3.flac"
MEMBERS = st.sampled_from(
    [INSIDE, f"./{INSIDE}", f"/{INSIDE}", f"../{INSIDE}", f"x/../{INSIDE}", "../../evil", "/evil",
     "LibriSpeech/train-clean-100/../../../evil.flac",
     "LibriSpeech/train-clean-100/1/../../evil.flac",
     "LibriSpeech/train-clean-100/1/2/1-2-3.flac/x", "stl10_binary/train_X.bin", ""]
)  # fmt: skip
TYPES = st.sampled_from(
    [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
     tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE, b"9"]
)  # fmt: skip


def _archive(members, *, link="/etc/passwd") -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as tar:
        for name, kind in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 5 * (kind == tarfile.REGTYPE)
            tar.addfile(member, io.BytesIO(b"audio"))
    return written.getvalue()


GOOD = _archive([(INSIDE, tarfile.REGTYPE)])
ARCHIVES = st.one_of(
    st.lists(st.tuples(MEMBERS, TYPES), max_size=4).map(_archive),
    damaged((GOOD, _archive([(INSIDE, tarfile.SYMTYPE)], link="../" * 30 + "tmp/evil"))),
)


def _unpack(content: bytes, folder: Path) -> None:
    archive = folder / "in" / "train-clean-100.tar.gz"
    archive.parent.mkdir()
    archive.write_bytes(content)
    speech = LibriSpeech(
        options=LibriSpeech.Options(), data_dir=folder / "data", cache_dir=folder / "cache"
    )
    unpack(archive, place=speech._place, total_bytes=len(content), progress=Silence())


def _check_unpacked(content: bytes) -> None:
    with folder_of_its_own() as folder:
        with suppress(ArchiveError):
            _unpack(content, folder)
        written = {path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()}
        wanted = folder / "data" / INSIDE
        assert written <= {folder / "in" / "train-clean-100.tar.gz", wanted}
        assert not wanted.is_symlink()


@fed(60, content=ARCHIVES)
def test_an_archive_writes_nothing_but_what_is_wanted(content):
    _check_unpacked(content)


@fed(30, data=st.data())
def test_an_archive_damaged_below_its_compression_writes_nothing_but_what_is_wanted(data):
    _check_unpacked(gzip.compress(data.draw(damaged((gzip.decompress(GOOD)[:2048],)))))


# -- checkpoints and weights -----------------------------------------------------------------------

STATE = {"weights": torch.arange(6.0), "losses": [1.0, 2.0], "epoch": 3}


@cache
def _checkpoint() -> bytes:
    with folder_of_its_own() as folder:
        Checkpoints(folder, made_by="tests", every_seconds=0, progress=Silence()).save(STATE)
        (path,) = folder.glob("*.pt")
        return path.read_bytes()


def _pickled(*parts: bytes) -> bytes:
    """The checkpoint with other pickled contents."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_checkpoint())) as old, zipfile.ZipFile(written, "w") as new:
        for name in old.namelist():
            new.writestr(name, parts[0] if name.endswith("data.pkl") else old.read(name))
    return written.getvalue()


def _pickle() -> bytes:
    with zipfile.ZipFile(io.BytesIO(_checkpoint())) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        return archive.read(name)


@fed(60, data=st.data(), sealed=st.booleans())
def test_a_damaged_checkpoint_is_passed_over(data, sealed):
    content = data.draw(st.one_of(damaged((_checkpoint(),)), damaged((_pickle(),)).map(_pickled)))
    with folder_of_its_own() as folder:
        digest = hashlib.sha256(content).hexdigest()[:DIGEST] if sealed else "0" * DIGEST
        (folder / f"checkpoint-000001-{digest}.pt").write_bytes(content)
        heard = Listener()
        found = Checkpoints(folder, made_by="tests", every_seconds=0, progress=heard).newest()
        assert sealed or found is None
        assert found is not None or len(heard.lines) == 1


# -- weights and features --------------------------------------------------------------------------


@cache
def _finished() -> dict[str, bytes]:
    """The files of a finished cell, by name."""
    with folder_of_its_own() as folder:
        (folder / "tiny.toml").write_text(TOML)
        assert gim_bench(*RUN).code == 0
        (record,) = folder.glob("runs/*/*/*/record.json")
        found = (p for p in record.parent.iterdir() if p.is_file())
        return {str(p.relative_to(folder)): p.read_bytes() for p in found}


RUN = ("run", "--suite", "./tiny.toml", "--no-tracking", "--method", "gim")
SWEEP = ("sweep", "--suite", "./tiny.toml", "--no-tracking", "--method", "gim", "--trials", "1")


def _with_weights(content: bytes, *command: str) -> Answer:
    """The answer to a command on a finished cell whose encoder is, by its record, `content`."""
    files = {"encoder.safetensors": hashlib.sha256(content).hexdigest()}
    with folder_of_its_own() as folder:
        (folder / "tiny.toml").write_text(TOML)
        for name, good in _finished().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if path.name == "encoder.safetensors" else good)
            if path.name == RECORD:
                path.write_text(json.dumps(sealed({**json.loads(good), "files": files})))
        above = ("--from", str(path.parent), "--plan", "--set", "encoder.blocks=[1, 1, 1]")
        return gim_bench(*command, *(above if command == RUN else ()))


def _weights() -> bytes:
    (found,) = (c for n, c in _finished().items() if n.endswith("encoder.safetensors"))
    return found


@fed(25, data=st.data())
def test_damaged_weights_are_built_upon_or_refused_in_a_line(data):
    check_answer(_with_weights(data.draw(damaged((_weights(),))), *RUN))


OTHERS = {
    "none": {},
    "no modules": {"bias": torch.zeros(3)},
    "no number": {"stages.": torch.zeros(3)},
    "other shapes": {"stages.0.0.weight": torch.zeros(3)},
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("command", [RUN, SWEEP], ids=["run", "sweep"])
def test_weights_of_something_else_are_refused_in_a_line(name, command):
    answer = _with_weights(save(OTHERS[name]), *command)
    check_answer(answer, codes=(2,))
    assert "runs/tiny/gim/seed-0-" in answer.err


@fed(25, data=st.data())
def test_damaged_features_are_made_anew(data):
    good = save({"features": torch.arange(6.0)}, metadata={"key": "k", "encoder": "e"})
    with folder_of_its_own() as folder:
        runs, cell = RunsFolder(folder), record()
        path = runs.folder_of(cell) / "features" / "train.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(data.draw(damaged((good,))))
        assert runs.read_features(cell, name="train", encoder="e") is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e5m2, torch.bool])
def test_features_of_another_number_format_are_made_anew(dtype):
    """NumPy, which checksums are made with, does not know them all."""
    with folder_of_its_own() as folder:
        runs, cell = RunsFolder(folder), record()
        runs.save_features(cell, torch.ones(2), name="train", encoder="e")
        (path,) = folder.rglob("train.safetensors")
        path.write_bytes(save({"features": torch.ones(2).to(dtype)}))
        assert runs.read_features(cell, name="train", encoder="e") is None
