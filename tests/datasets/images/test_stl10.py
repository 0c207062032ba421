"""STL-10, on small files of exactly the official layout."""

import hashlib
import http.server
import io
import os
import tarfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from torchvision import datasets as official

from gim_bench.contract import Split, Target
from gim_bench.datasets import files
from gim_bench.datasets.images import stl10
from gim_bench.datasets.images.stl10 import STL10
from gim_bench.errors import DataError
from gim_bench.system.atomic import atomically

COUNTS = {Split.UNLABELLED: 4, Split.TRAIN: 3, Split.TEST: 2}
NAMES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def picture():
    """[channel row column]: a bright upper edge in red, a bright left edge in green."""
    image = np.zeros((3, 96, 96), dtype=np.uint8)
    image[0, :10, :] = 200
    image[1, :, :20] = 100
    return image


def binaries():
    """The official files, by name; columns come before rows."""
    stored = picture().transpose(0, 2, 1).tobytes()
    noise = np.random.default_rng(0).integers(256, size=27_648, dtype=np.uint8).tobytes()
    return {
        "unlabeled_X.bin": noise * 3 + stored,
        "train_X.bin": stored + noise * 2,
        "train_y.bin": bytes([1, 10, 3]),
        "test_X.bin": noise + stored,
        "test_y.bin": bytes([2, 2]),
        "class_names.txt": "\n".join(NAMES).encode() + b"\n",
    }


def archive(files, *, folder="stl10_binary/"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The counts and checksums of the small files in place of the official ones; no network."""
    monkeypatch.setattr(stl10, "COUNTS", COUNTS)
    sums = [[name, md5(content)] for name, content in binaries().items() if name.endswith("bin")]
    monkeypatch.setattr(official.STL10, "train_list", sums[:3])
    monkeypatch.setattr(official.STL10, "test_list", sums[3:])

    def offline(*arguments, **options):
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", offline)


@pytest.fixture
def folder(tmp_path):
    """A data folder that holds stl10_binary."""
    place = tmp_path / "data" / "stl10_binary"
    place.mkdir(parents=True)
    for name, content in binaries().items():
        (place / name).write_bytes(content)
    return place


@pytest.fixture
def data(tmp_path):
    """Makes the data set anew, as the next start of the program does."""

    def make(data_dir=tmp_path / "data", fold=None):
        options = STL10.Options(fold=fold)
        return STL10(options=options, data_dir=data_dir, cache_dir=tmp_path / "cache")

    return make


def alter(path, *, at=5):
    """Another byte, the same size, a later mtime."""
    content, mtime_ns = bytearray(path.read_bytes()), path.stat().st_mtime_ns + 10**9
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


# -- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "place"), [("unlabelled", 3), ("train", 0), ("test", 1)])
def test_images_stand_upright(folder, data, split, place):
    assert np.array_equal(data().split(Split(split)).images[place], picture())


def test_images_agree_with_torchvisions_reading(folder, data):
    images, _ = official.STL10._STL10__loadfile(
        _Rooted(folder.parent), "train_X.bin", "train_y.bin"
    )
    assert np.array_equal(data().split(Split.TRAIN).images, images)


class _Rooted:
    """What torchvision's reader looks at of itself."""

    base_folder = "stl10_binary"

    def __init__(self, root):
        self.root = root


def test_images_are_a_view_of_the_file(folder, data):
    images = data().split(Split.UNLABELLED).images
    assert isinstance(images, np.memmap)
    assert not images.flags.owndata
    assert images.shape == (4, 3, 96, 96)
    assert images.dtype == np.uint8


def test_images_go_to_torch_and_writing_there_never_reaches_the_file(folder, data):
    torch.from_numpy(data().split(Split.TRAIN).images).zero_()
    assert (folder / "train_X.bin").read_bytes() == binaries()["train_X.bin"]


def test_labels_count_from_zero(folder, data):
    labels = data().split(Split.TRAIN).labels["class"]
    assert labels.tolist() == [0, 9, 2]
    assert labels.dtype == np.int64


def test_unlabelled_images_have_no_labels(folder, data):
    assert data().split(Split.UNLABELLED).labels == {}


def test_classes_are_those_of_the_file(folder, data):
    assert data().targets() == [Target(name="class", classes=NAMES)]


def test_the_folder_of_binaries_itself_may_be_given(folder, data):
    assert data(folder).fingerprint() == data().fingerprint()


def test_binaries_in_a_folder_of_another_name_are_found(folder, data):
    renamed = folder.rename(folder.parent / "mine")
    assert len(data(renamed).split(Split.TEST)) == 2


def test_without_a_data_folder_the_cache_is_looked_into(folder, data, tmp_path):
    (tmp_path / "cache").mkdir()
    folder.parent.rename(tmp_path / "cache" / "stl10")
    assert len(data(None).split(Split.TEST)) == 2


# -- the ten folds -------------------------------------------------------------------------------


def fold_lines(*, folds=10, images=(0, 2)):
    """The official format: a line of numbers for each fold; every second fold is reversed."""
    lines = [" ".join(map(str, images[:: -1 if fold % 2 else 1])) for fold in range(folds)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def folded(folder, monkeypatch):
    """Folds of two of the three images."""
    monkeypatch.setattr(stl10, "FOLD_IMAGES", 2)
    (folder / "fold_indices.txt").write_text(fold_lines())
    return folder


@pytest.mark.parametrize(("fold", "chosen"), [(0, [0, 2]), (9, [2, 0])])
def test_a_fold_holds_the_labelled_images_of_its_line(folded, data, fold, chosen):
    whole, found = data().split(Split.TRAIN), data(fold=fold).split(Split.TRAIN)
    assert np.array_equal(found.images, whole.images[chosen])
    assert found.labels["class"].tolist() == whole.labels["class"][chosen].tolist()


@pytest.mark.parametrize("split", [Split.UNLABELLED, Split.TEST])
def test_a_fold_leaves_the_other_splits_whole(folded, data, split):
    assert np.array_equal(data(fold=3).split(split).images, data().split(split).images)


def test_the_file_of_folds_is_needed_and_part_of_the_data_only_with_a_fold(folded, data):
    whole, with_fold = data().fingerprint(), data(fold=3).fingerprint()
    assert whole != with_fold
    (folded / "fold_indices.txt").unlink()
    assert data().fingerprint() == whole
    with pytest.raises(DataError, match=r"stl10: fold_indices\.txt missing in"):
        data(fold=3).split(Split.TRAIN)


@pytest.mark.parametrize(
    "content",
    [
        fold_lines(folds=9),
        fold_lines(images=(0, 3)),
        fold_lines(images=(1, 1)),
        fold_lines(images=(0, 1, 2)),
        fold_lines(images=(-1, 1)),
        "one two\n" * 10,
        b"\xff\xfe" * 10,
    ],
    ids=["nine lines", "no image 3", "twice", "too many", "negative", "words", "no text"],
)
def test_a_file_without_ten_folds_is_refused_in_a_line(folded, data, content):
    path = folded / "fold_indices.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for asked in (lambda: data(fold=0).split(Split.TRAIN), lambda: data(fold=0).fingerprint()):
        with pytest.raises(DataError, match="does not hold 10 lines of 2 different") as caught:
            asked()
        assert "\n" not in str(caught.value)


# -- what is wrong with files --------------------------------------------------------------------


@pytest.mark.parametrize("use", [STL10.fingerprint, STL10.targets, lambda d: d.split(Split.TEST)])
def test_missing_files_say_where_they_go_and_what_fetches_them(data, tmp_path, use):
    with pytest.raises(DataError) as caught:
        use(data())
    message = str(caught.value)
    assert str(tmp_path / "data" / "stl10_binary") in message
    assert "`python -m gim_bench data prepare --suite stl10 --data-dir" in message
    assert "--suite quickstart" in message
    assert "\n" not in message


def test_a_missing_file_is_named(folder, data):
    (folder / "test_y.bin").unlink()
    with pytest.raises(DataError, match=r"stl10: test_y\.bin missing in"):
        data().fingerprint()


@pytest.mark.parametrize("use", [STL10.fingerprint, lambda d: d.split(Split.TRAIN)])
def test_a_truncated_file_is_named_with_both_sizes(folder, data, use):
    with (folder / "train_X.bin").open("r+b") as file:
        file.truncate(50_000)
    with pytest.raises(DataError, match=r"train_X\.bin has 50,000 bytes where 82,944.*delete this"):
        use(data())


def test_an_altered_file_is_noticed_by_the_first_fingerprint(folder, data):
    alter(folder / "unlabeled_X.bin")
    with pytest.raises(DataError, match=r"unlabeled_X\.bin has md5 \w{32} where \w{32} is expect"):
        data().fingerprint()


def test_an_altered_file_is_refused_every_time(folder, data):
    alter(folder / "test_X.bin")
    for _ in range(2):
        with pytest.raises(DataError, match=r"test_X\.bin has md5"):
            data().fingerprint()


def test_a_file_altered_after_the_first_run_is_noticed(folder, data):
    data().fingerprint()
    alter(folder / "train_X.bin")
    with pytest.raises(DataError, match=r"train_X\.bin has md5"):
        data().fingerprint()


@pytest.mark.parametrize("look", [STL10.fingerprint, STL10.verify])
def test_a_known_file_that_was_altered_is_noticed_though_its_mtime_is_put_back(folder, data, look):
    data().fingerprint()
    status = (folder / "train_X.bin").stat()
    time.sleep(0.02)  # longer than a tick of the file system's clock
    alter(folder / "train_X.bin")
    os.utime(folder / "train_X.bin", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"train_X\.bin has md5"):
        look(data())


def test_verify_accepts_the_official_files(folder, data):
    data().verify()


@pytest.mark.parametrize("label", [0, 11])
def test_a_label_out_of_range_is_named(folder, data, label):
    (folder / "train_y.bin").write_bytes(bytes([1, label, 3]))
    with pytest.raises(DataError, match=rf"train_y\.bin holds the label {label} where 1 to 10"):
        data().split(Split.TRAIN)


def test_too_few_class_names_are_an_error(folder, data):
    (folder / "class_names.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"class_names\.txt holds 2 class names where 10"):
        data().targets()


def test_other_class_names_make_another_fingerprint(folder, data):
    before = data().fingerprint()
    (folder / "class_names.txt").write_text("\n".join(reversed(NAMES)) + "\n\n")
    assert data().fingerprint() != before


# -- fetching ------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *arguments): ...


ONLINE = urllib.request.urlopen  # before any test takes it away


@pytest.fixture
def serve(monkeypatch):
    """Serves an archive at the official address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()

        def start(content, *, expected_md5=None):
            server.content = content
            url = f"http://127.0.0.1:{server.server_port}/stl10_binary.tar.gz"
            monkeypatch.setattr(official.STL10, "url", url)
            monkeypatch.setattr(official.STL10, "tgz_md5", expected_md5 or md5(content))
            monkeypatch.setattr(urllib.request, "urlopen", ONLINE)

        yield start
        server.shutdown()
        thread.join()


def test_prepare_downloads_unpacks_and_leaves_the_binaries_alone(data, serve, tmp_path):
    serve(archive(binaries()))
    data().prepare()
    assert np.array_equal(data().split(Split.TRAIN).images[0], picture())
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["stl10_binary"]
    found = sorted(path.name for path in (tmp_path / "data" / "stl10_binary").iterdir())
    assert found == sorted(binaries())


def test_prepare_leaves_files_that_are_there(folder, data):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    data().prepare()  # there is no network in this test
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_prepare_adds_only_what_is_missing(folder, data, serve):
    serve(archive(binaries()))
    (folder / "test_y.bin").unlink()
    before = (folder / "train_X.bin").stat().st_mtime_ns
    data().prepare()
    assert data().split(Split.TEST).labels["class"].tolist() == [1, 1]
    assert (folder / "train_X.bin").stat().st_mtime_ns == before


def test_prepare_finds_a_damaged_file(folder, data):
    alter(folder / "train_X.bin")
    with pytest.raises(DataError, match=r"train_X\.bin has md5"):
        data().prepare()


def test_prepare_without_network_is_one_line_that_offers_two_ways_out(data, tmp_path):
    with pytest.raises(DataError) as caught:
        data().prepare()
    message = str(caught.value)
    assert "Network is unreachable" in message
    assert str(tmp_path / "data" / "stl10_binary.tar.gz") in message
    assert "--suite quickstart" in message
    assert "\n" not in message


def test_an_archive_put_there_by_hand_is_unpacked_and_kept(data, monkeypatch, tmp_path):
    content = archive(binaries(), folder="./stl10_binary/")
    monkeypatch.setattr(official.STL10, "tgz_md5", md5(content))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stl10_binary.tar.gz").write_bytes(content)
    data().prepare()
    assert (tmp_path / "data" / "stl10_binary.tar.gz").exists()
    assert len(data().split(Split.TRAIN)) == 3


def test_an_archive_put_there_with_another_md5_is_named(data, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "stl10_binary.tar.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"stl10_binary\.tar\.gz has md5 .* delete this file"):
        data().prepare()


def test_an_archive_that_arrives_with_another_md5_is_not_unpacked(data, serve, tmp_path):
    serve(archive(binaries()), expected_md5="0" * 32)
    with pytest.raises(DataError, match=r"the download of .* has md5"):
        data().prepare()
    assert list((tmp_path / "data").iterdir()) == []


def test_no_member_of_an_archive_is_written_elsewhere(data, serve, tmp_path):
    evil = {"../../evil.txt": b"out", "../stl10_binary/../../evil.txt": b"out", "extra.txt": b"in"}
    serve(archive(evil | binaries()))
    data().prepare()
    found = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name in found if "checksums" not in name} == set(binaries())


def test_a_link_in_place_of_a_binary_is_not_followed(data, serve, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(3))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("stl10_binary/train_y.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        tar.addfile(link)
    serve(buffer.getvalue())
    with pytest.raises(DataError, match="missing in"):
        data().prepare()
    assert not (tmp_path / "data" / "stl10_binary" / "train_y.bin").is_symlink()


def test_a_broken_archive_is_named(data, serve):
    content = archive(binaries())
    serve(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cannot unpack .*stl10_binary\.tar\.gz"):
        data().prepare()


def test_an_interrupted_unpacking_leaves_no_half_file(data, serve, tmp_path, monkeypatch):
    @contextmanager
    def interrupted(path):
        with atomically(path) as file:
            yield file
            raise KeyboardInterrupt

    serve(archive(binaries()))
    with monkeypatch.context() as patch:
        patch.setattr(files, "atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data().prepare()
    assert list((tmp_path / "data" / "stl10_binary").iterdir()) == []
    data().prepare()
    assert len(data().split(Split.TRAIN)) == 3
