"""A folder of one's own images."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gim_bench.contract import Split, Target
from gim_bench.datasets.images import image_folder
from gim_bench.datasets.images.image_folder import ImageFolder, Remarks
from gim_bench.datasets.walk import Reason
from gim_bench.errors import DataError
from tests.listener import Listener

CIFAR = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10-slice"


def save(path, *, value=0, size=(16, 16), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode != "RGB" else (value, 10, 20)).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes with 2 train and 1 test image each, and 3 unlabelled; red tells them apart."""
    root = tmp_path / "mine"
    for place, value in {
        "unlabeled/a.png": 1, "unlabeled/deep/er/b.bmp": 2, "unlabeled/c.PNG": 3,
        "train/dog/1.png": 30, "train/dog/x/2.png": 40,
        "train/cat/1.png": 10, "train/cat/2.png": 20,
        "test/cat/1.png": 50, "test/dog/1.png": 60,
    }.items():  # fmt: skip
        save(root / place, value=value)
    return root


@pytest.fixture
def data(tmp_path):
    """Makes the data set anew, as the next start of the program does."""

    def make(data_dir=tmp_path / "mine", *, size=16):
        options = ImageFolder.Options(size=size)
        return ImageFolder(options=options, data_dir=data_dir, cache_dir=tmp_path / "cache")

    return make


@pytest.fixture
def decodings(monkeypatch):
    """The files that were decoded."""
    decoded, decode = [], image_folder.decode

    def spy(path, **how):
        decoded.append(path.name)
        return decode(path, **how)

    monkeypatch.setattr(image_folder, "decode", spy)
    return decoded


def reds(data, split):
    return data.split(split).images[:, 0, 0, 0].tolist()


def alter(path):
    """Another last byte, the same size, a later mtime."""
    content, mtime_ns = bytearray(path.read_bytes()), path.stat().st_mtime_ns + 10**9
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


# -- splits --------------------------------------------------------------------------------------


def test_splits_come_from_their_folders_at_any_depth(root, data):
    assert reds(data(), Split.UNLABELLED) == [1, 3, 2]
    assert reds(data(), Split.TRAIN) == [10, 20, 30, 40]
    assert reds(data(), Split.TEST) == [50, 60]


def test_labels_number_the_sorted_classes(root, data):
    assert data().targets() == [Target(name="class", classes=["cat", "dog"])]
    labels = data().split(Split.TRAIN).labels["class"]
    assert labels.tolist() == [0, 0, 1, 1]
    assert labels.dtype == np.int64
    assert data().split(Split.UNLABELLED).labels == {}


def test_a_class_without_test_images_keeps_the_others_numbers(root, data):
    shutil.rmtree(root / "test" / "cat")
    assert data().split(Split.TEST).labels["class"].tolist() == [1]


def test_the_british_spelling_is_read_too(root, data):
    (root / "unlabeled").rename(root / "unlabelled")
    assert reds(data(), Split.UNLABELLED) == [1, 3, 2]


def test_hidden_files_are_ignored(root, data):
    before = data().fingerprint()
    (root / "train" / "cat" / "._1.png").write_bytes(b"no image")
    (root / "train" / ".thumbnails").mkdir()
    (root / "unlabeled" / ".hidden").mkdir()
    save(root / "unlabeled" / ".hidden" / "a.png")
    assert data().fingerprint() == before
    assert data().notes() == []


# case 1
def test_files_of_other_formats_are_left_out_and_counted_with_an_example(root, data):
    before = data().fingerprint()
    for number in range(6):
        (root / "train" / "dog" / f"{number:03}.tif").write_bytes(b"a scan")
    assert data().fingerprint() == before
    (note,) = data().notes()
    assert note == "left out: 6 files that are not read (.tif), such as train/dog/000.tif"


# case 1
def test_images_beside_the_class_folders_are_left_out_and_counted(root, data):
    for name in ("train/1.png", "train/2.png", "test/3.JPG"):
        save(root / name)
    assert reds(data(), Split.TRAIN) == [10, 20, 30, 40]
    (note,) = data().notes()
    assert note == "left out: 3 images beside the class folders, such as test/3.JPG"


@pytest.mark.parametrize("name", ["0.png", "val/dog/1.png", "Train/dog/1.png", "unlabeled.png"])
def test_images_outside_of_the_splits_are_left_out_and_named(root, data, name):
    save(root / name)
    (note,) = data().notes()
    assert note == f"left out: 1 image outside of train/, test/ and unlabeled/: {name}"


# case 12
def test_clutter_of_systems_is_neither_read_nor_counted(root, data):
    before = data().fingerprint()
    save(root / "train" / "dog" / "@eaDir" / "000.png" / "SYNOPHOTO_THUMB_M.jpg")
    save(root / "__MACOSX" / "train" / "dog" / "1.png")
    for name in ("Thumbs.db", "train/desktop.ini", "train/dog/.DS_Store", "unlabeled/THUMBS.DB"):
        (root / name).write_bytes(b"of a system")
    assert data().fingerprint() == before
    assert data().notes() == []


def test_without_unlabelled_images_the_train_images_serve_and_it_is_said_once(root, data):
    shutil.rmtree(root / "unlabeled")
    listener, mine = Listener(), data()
    mine.progress = listener
    mine.prepare()
    assert reds(mine, Split.UNLABELLED) == reds(mine, Split.TRAIN) == [10, 20, 30, 40]
    assert mine.split(Split.UNLABELLED).labels == {}
    (line,) = listener.lines
    assert "train images serve" in line


def test_images_go_to_torch_and_writing_there_never_reaches_the_cache(root, data):
    mine = data()
    images = mine.split(Split.TRAIN).images
    assert isinstance(images, np.memmap)
    torch.from_numpy(images).zero_()
    assert reds(data(), Split.TRAIN) == [10, 20, 30, 40]


# -- pixels --------------------------------------------------------------------------------------


def test_an_image_of_the_right_size_is_untouched(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = image_folder.decode(tmp_path / "a.png", size=16)
    assert np.array_equal(found, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("upright", [True, False])
def test_the_centre_of_a_longer_image_is_cut_out(tmp_path, upright):
    pixels = np.zeros((16, 48, 3), dtype=np.uint8)
    pixels[:, 16:32] = 255
    Image.fromarray(pixels.transpose(1, 0, 2) if upright else pixels).save(tmp_path / "a.png")
    assert (image_folder.decode(tmp_path / "a.png", size=16) == 255).all()


def test_the_short_side_becomes_the_size(tmp_path):
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:16] = 255  # the upper half
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = image_folder.decode(tmp_path / "a.png", size=16)
    assert found.shape == (3, 16, 16)
    assert (found[:, :7] == 255).all()
    assert (found[:, 9:] == 0).all()


def test_fine_stripes_turn_gray_instead_of_aliasing(tmp_path):
    pixels = np.zeros((128, 128, 3), dtype=np.uint8)
    pixels[:, ::2] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = image_folder.decode(tmp_path / "a.png", size=16)[:, :, 1:-1].astype(int)
    assert abs(found - 127.5).max() < 6


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (77, 255), (77, 77, 77)),
        ("RGBA", (1, 2, 3, 255), (1, 2, 3)),
        ("I;16", 77 * 256 + 200, (77, 77, 77)),
    ],
)
def test_every_kind_of_png_becomes_rgb(tmp_path, mode, value, expected):
    Image.new(mode, (16, 16), value).save(tmp_path / "a.png")
    found = image_folder.decode(tmp_path / "a.png", size=16)
    assert (found == np.array(expected)[:, None, None]).all()


# -- what is remembered --------------------------------------------------------------------------


def test_images_are_decoded_once(root, data, decodings):
    first = data().split(Split.TRAIN).images
    assert len(decodings) == 9
    assert np.array_equal(data().split(Split.TRAIN).images, first)
    assert len(decodings) == 9


def test_images_are_decoded_only_a_little_ahead(root, data, decodings, monkeypatch):
    """Decoded images wait in memory until they are written."""

    def interrupted(*_, pieces, **__):
        next(pieces())
        raise KeyboardInterrupt

    for number in range(60):
        save(root / "unlabeled" / f"more{number}.png", value=number)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(image_folder, "kept", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data().prepare()
    assert len(decodings) < 12


def test_prepare_shows_how_fast_it_decodes(root, data):
    listener = Listener()
    mine = data()
    mine.progress = listener
    mine.prepare()
    assert ("decoding mine", 9, "image") in listener.tasks
    assert listener.steps == 2 * 9  # decoded, then compared


def test_after_prepare_nothing_is_left_to_do(root, data, decodings):
    data().prepare()
    decodings.clear()
    listener, mine = Listener(), data()
    mine.progress = listener
    mine.split(Split.TEST)
    assert (decodings, listener.tasks) == ([], [])


def test_another_size_is_decoded_apart(root, data):
    assert data(size=8).split(Split.TEST).images.shape == (2, 3, 8, 8)
    assert data(size=16).split(Split.TEST).images.shape == (2, 3, 16, 16)
    assert data(size=8).fingerprint() == data(size=16).fingerprint()


def test_a_changed_byte_changes_the_fingerprint(root, data):
    before = data().fingerprint()
    alter(root / "unlabeled" / "deep" / "er" / "b.bmp")
    assert data().fingerprint() != before


def test_a_changed_image_is_decoded_anew(root, data):
    data().prepare()
    save(root / "test" / "cat" / "1.png", value=99, size=(16, 17))
    assert reds(data(), Split.TEST) == [99, 60]


@pytest.mark.parametrize("change", ["rename", "remove", "add", "reclass"])
def test_names_and_places_are_part_of_the_fingerprint(root, data, change):
    before, one = data().fingerprint(), root / "train" / "cat" / "1.png"
    match change:
        case "rename":
            one.rename(one.with_name("3.png"))
        case "remove":
            one.unlink()
        case "add":
            shutil.copy(one, one.with_name("3.png"))
        case "reclass":
            one.rename(root / "train" / "dog" / "3.png")
    assert data().fingerprint() != before


def test_a_moved_folder_keeps_its_fingerprint(root, data):
    before = data().fingerprint()
    assert data(root.rename(root.parent / "elsewhere")).fingerprint() == before


@pytest.mark.parametrize("damage", ["cut", "altered", "gone", "unsigned", "nonsense"])
def test_a_damaged_cache_is_redone(root, data, tmp_path, decodings, damage):
    data().prepare()
    decodings.clear()
    (array,) = (tmp_path / "cache").rglob("*.bin")
    match damage:
        case "cut":
            os.truncate(array, 500)
        case "altered":
            alter(array)
        case "gone":
            array.unlink()
        case "unsigned":
            array.with_name(f"{array.name}.json").unlink()
        case "nonsense":
            array.write_bytes(b"nonsense")
    assert reds(data(), Split.TEST) == [50, 60]
    assert len(decodings) == 9


def test_a_cache_that_was_only_copied_is_kept(root, data, tmp_path, decodings):
    data().prepare()
    decodings.clear()
    (array,) = (tmp_path / "cache").rglob("*.bin")
    os.utime(array, ns=(1, 1))
    assert reds(data(), Split.TEST) == [50, 60]
    assert decodings == []


def test_a_decoding_that_fails_leaves_no_array(root, data, tmp_path):
    (root / "train" / "dog" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError):
        data().prepare()
    assert list((tmp_path / "cache" / "image_folder").iterdir()) == []


def test_the_folder_is_never_written_to(root, data):
    before = sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*"))
    data().prepare()
    data().verify()
    assert sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*")) == before


# -- errors --------------------------------------------------------------------------------------


def refusal(mine):
    """The one line with which `split` refuses."""
    with pytest.raises(DataError) as caught:
        mine.split(Split.TRAIN)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_no_folder_given_names_the_option_and_the_layout(data):
    line = refusal(data(None))
    assert "--data-dir" in line
    assert "train/<class>/*.jpg" in line


def test_a_missing_folder_is_named(data, tmp_path):
    assert f"no folder {tmp_path / 'mine'}" in refusal(data())


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_part_is_named(root, data, split):
    shutil.rmtree(root / split)
    assert f"has no {split}/" in refusal(data())


def test_a_single_class_is_refused(root, data):
    shutil.rmtree(root / "train" / "dog")
    assert "holds 1 class folder(s) where two or more" in refusal(data())


def test_loose_train_images_are_refused_with_the_remedy(root, data):
    shutil.rmtree(root / "train")
    save(root / "train" / "1.png")
    line = refusal(data())
    assert "holds 0 class folder(s)" in line
    assert "train/<class>/" in line


def test_a_test_class_without_training_images_is_named(root, data):
    save(root / "test" / "zebra" / "1.png")
    assert "the class 'zebra' is in" in refusal(data())


def test_a_class_in_test_that_looks_like_one_in_train_is_refused_naming_both(root, data):
    (root / "test" / "dog").rename(root / "test" / "Dog ")
    assert "the class 'Dog ' is in" in (line := refusal(data()))
    assert "which has 'dog'" in line


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


# case 8
@pytest.mark.parametrize(("train", "test"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_class_is_one_in_both_unicode_forms_of_its_name(root, data, train, test):
    before = [data().split(split).labels["class"].tolist() for split in (Split.TRAIN, Split.TEST)]
    (root / "train" / "cat").rename(root / "train" / train)
    (root / "test" / "cat").rename(root / "test" / test)
    assert data().targets()[0].classes == [COMPOSED, "dog"]
    after = [data().split(split).labels["class"].tolist() for split in (Split.TRAIN, Split.TEST)]
    assert after == before
    assert data().notes() == []


# case 8
@pytest.mark.parametrize("split", ["train", "test"])
def test_both_unicode_forms_of_a_class_in_one_split_are_refused(root, data, split):
    for name in (COMPOSED, DECOMPOSED):
        save(root / "train" / name / "1.png", value=1)
    if split == "test":
        shutil.rmtree(root / "train" / DECOMPOSED)
        for name in (COMPOSED, DECOMPOSED):
            save(root / "test" / name / "1.png", value=2)
    line = refusal(data())
    assert f"{root / split} holds the class 'café' twice" in line
    assert r"'cafe\u0301' and as 'caf\xe9', which differ in their Unicode form only" in line


def test_a_folder_has_the_same_fingerprint_and_order_in_both_unicode_forms(root, data):
    """Raw, the composed name comes after cafz.png and the decomposed name before."""
    save(root / "train" / "cat" / "cafz.png", value=77)
    save(root / "train" / "cat" / f"{COMPOSED}.png", value=78)
    before = data().fingerprint(), reds(data(), Split.TRAIN)
    folder = root / "train" / "cat"
    (folder / f"{COMPOSED}.png").rename(folder / f"{DECOMPOSED}.png")
    assert (data().fingerprint(), reds(data(), Split.TRAIN)) == before


def test_classes_that_look_alike_are_named(root, data):
    save(root / "train" / "Cat" / "1.png", value=1)
    assert data().notes() == ["2 classes have names that look alike, such as 'Cat' and 'cat'"]


def test_a_test_folder_without_classes_is_refused(root, data):
    shutil.rmtree(root / "test")
    save(root / "test" / "1.png")
    assert "holds no class folder" in refusal(data())


@pytest.mark.parametrize("place", ["train/emu", "test/dog", "unlabeled"])
def test_an_empty_folder_is_named(root, data, place):
    shutil.rmtree(root / place, ignore_errors=True)
    (root / place).mkdir()
    (root / place / "scan.tif").write_bytes(b"")
    line = refusal(data())
    assert f"{root / place} is empty" in line
    assert ".webp" in line


def test_a_file_that_is_no_image_is_named(root, data):
    (root / "train" / "dog" / "1.png").write_bytes(b"no image")
    line = refusal(data())
    assert str(root / "train" / "dog" / "1.png") in line
    assert "replace it or remove it" in line


def test_a_truncated_image_is_named(root, data):
    path = root / "unlabeled" / "photo.jpg"
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    os.truncate(path, path.stat().st_size // 2)
    assert f"cannot decode {path}" in refusal(data())


def test_verify_finds_what_cannot_be_decoded_even_after_prepare(root, data):
    data().prepare()
    data().verify()
    (root / "test" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot decode .*1\.png"):
        data().verify()


def test_a_folder_that_may_not_be_read_is_named(root, data, monkeypatch):
    def forbidden(path):  # root, who may run the tests, can read anything
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", forbidden)
    assert f"cannot read {root} (Permission denied)" in refusal(data())


def test_a_nested_folder_that_may_not_be_read_is_left_out_and_named(root, data, monkeypatch):
    scandir, closed = os.scandir, root / "train" / "dog" / "x"

    def forbidden(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    assert reds(data(), Split.TRAIN) == [10, 20, 30]
    assert data().notes() == ["left out: 1 folder that cannot be read: train/dog/x"]


def test_a_class_that_may_not_be_read_is_refused_with_the_reason(root, data, monkeypatch):
    scandir, closed = os.scandir, root / "train" / "dog"

    def forbidden(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    line = refusal(data())
    assert f"the class {closed} is empty (left out: 1 folder that cannot be read" in line


def test_a_link_that_leads_nowhere_is_left_out_and_named(root, data):
    before = data().fingerprint()
    (root / "train" / "dog" / "9.png").symlink_to(root / "gone.png")
    assert data().fingerprint() == before
    assert data().notes() == ["left out: 1 link that leads nowhere: train/dog/9.png"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, data):
    (tmp_path / "mine").write_bytes(b"")
    assert "no folder" in refusal(data())


def test_a_cache_that_cannot_be_written_is_refused_with_the_room_it_needs(root, data, tmp_path):
    (tmp_path / "cache").write_bytes(b"")  # a file where the folder belongs
    line = refusal(data())
    assert "cannot keep the decoded images" in line
    assert str(tmp_path / "cache") in line


# -- real photographs ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"no CIFAR-10 slice in {CIFAR}")
def test_a_real_folder_of_photographs_is_read_once(data):
    data(CIFAR, size=32).prepare()
    mine, listener = data(CIFAR, size=32), Listener()
    mine.progress = listener
    mine.fingerprint()
    sizes = [len(mine.split(split)) for split in Split]
    assert listener.tasks == []  # neither checksums nor pixels are computed again
    assert sizes == [8_000, 2_000, 1_000]
    assert mine.targets()[0].classes[0] == "airplane"
    first = min((CIFAR / "train" / "airplane").iterdir())
    expected = np.asarray(Image.open(first).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(mine.split(Split.TRAIN).images[0], expected)


class SlowReason(Reason):
    """A reason that lets other threads run while a mapping looks for it."""

    __slots__ = ()

    def __hash__(self):
        time.sleep(0.01)
        return 0


def test_no_remark_is_lost_where_threads_make_the_first_ones_at_once(tmp_path):
    remarks, reason = Remarks(tmp_path), SlowReason("image", "images")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: remarks.of(tmp_path / f"{n}.png")(reason, ""), range(8)))
    assert remarks.described() == ["8 images, such as 0.png"]
