"""Folders of large TIFF images."""

import shutil
import unicodedata

import numpy as np
import pytest
import tifffile

from gim_bench.contract import Split
from gim_bench.datasets.images.large_folder import LargeImageFolder
from gim_bench.errors import DataError

PLACE = 32


@pytest.fixture
def folder(tmp_path):
    """Two classes; training images of 2×3 and 1×2 places, and test images of one place."""
    draw = np.random.default_rng(0)
    for name, rows, columns in [
        ("train/cat/a", 70, 100),
        ("train/dog/b", 40, 64),
        ("test/cat/c", 32, 32),
        ("test/dog/d", 32, 32),
    ]:
        path = tmp_path / "images" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, draw.integers(0, 256, (rows, columns), np.uint8), tile=(16, 16))
    return tmp_path / "images"


def data(folder):
    return LargeImageFolder(
        options=LargeImageFolder.Options(place=PLACE),
        data_dir=folder,
        cache_dir=folder.parent / "cache",
    )


def test_every_place_has_the_class_of_its_image(folder):
    found = data(folder).split(Split.TRAIN)
    assert found.labels["class"].tolist() == [0] * 6 + [1] * 2
    assert found.sources.tolist() == [0] * 6 + [1] * 2
    assert len(found) == 8
    assert data(folder).targets()[0].classes == ["cat", "dog"]


def test_training_images_serve_as_unlabelled_ones_without_their_labels(folder):
    found = data(folder).split(Split.UNLABELLED)
    assert (len(found.images), found.labels) == (2, {})


def test_an_altered_pixel_is_other_data(folder):
    before = data(folder).fingerprint()
    path = folder / "test" / "cat" / "c.tif"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert data(folder).fingerprint() != before


def test_files_of_other_kinds_are_counted(folder):
    (folder / "train" / "cat" / "photo.png").write_bytes(b"")
    (folder / "train" / "loose.tif").write_bytes(b"")
    (note,) = data(folder).notes()
    assert "photo.png" in note
    assert "1 image outside of its folder: train/loose.tif" in note


def test_files_of_16_bits_are_counted(folder):
    deep = folder / "test" / "dog" / "d.tif"
    tifffile.imwrite(deep, np.full((32, 32), 4_096, np.uint16), tile=(16, 16))
    (note,) = data(folder).notes()
    assert note == "1 image of 16 bits, of which the upper 8 are read: test/dog/d.tif"


def test_files_of_12_bits_in_16_are_counted_as_nearly_black(folder):
    deep = folder / "test" / "dog" / "d.tif"
    tifffile.imwrite(deep, np.full((32, 32), 4_095, np.uint16), tile=(16, 16))
    (note,) = data(folder).notes()
    assert note == "1 nearly black image of 16 bits, with values below 4,096: test/dog/d.tif"


def test_a_file_whose_first_image_alone_is_read_is_counted(folder):
    """As scenes of a microscope, of which the first may be a thumbnail."""
    with tifffile.TiffWriter(folder / "test" / "dog" / "d.tif") as file:
        for side in (32, 64):
            file.write(np.zeros((side, side), np.uint8), tile=(16, 16))
    (note,) = data(folder).notes()
    assert note == "1 file of several images, of which the first is read: test/dog/d.tif"


@pytest.mark.parametrize("method", ["prepare", "verify"])
def test_an_image_that_is_cut_off_is_named_before_training(folder, method):
    path = folder / "train" / "dog" / "b.tif"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"b\.tif by windows: it is cut off"):
        getattr(data(folder), method)()


def test_a_class_that_is_only_tested_is_refused(folder):
    (folder / "test" / "dog").rename(folder / "test" / "wolf")
    with pytest.raises(DataError, match=r"the class 'wolf' is in .*/test but not in .*/train: add"):
        data(folder).fingerprint()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_without_a_readable_file_is_refused_and_does_not_vanish(folder, split):
    (folder / split / "wolf").mkdir()
    (folder / split / "wolf" / "photo.png").write_bytes(b"")
    with pytest.raises(DataError, match=rf"large_images: the class .*{split}/wolf is empty") as e:
        data(folder).targets()
    assert "1 file that is not read (.png)" in str(e.value)
    assert "\n" not in str(e.value)


def test_classes_are_compared_by_the_composed_form_of_their_names(folder):
    for split, form in (("train", "NFC"), ("test", "NFD")):
        (folder / split / "dog").rename(folder / split / unicodedata.normalize(form, "Köter"))
    assert data(folder).targets()[0].classes == ["Köter", "cat"]
    assert data(folder).split(Split.TEST).labels["class"].tolist() == [0, 1]


# -- identical files -------------------------------------------------------------------------------


def test_test_images_that_are_train_images_too_are_counted(folder):
    shutil.copy(folder / "train" / "cat" / "a.tif", folder / "test" / "cat" / "z.tif")
    (note,) = data(folder).notes()
    assert note == (
        "SEEN IN TRAINING: 1 of 3 test images are also train images, such as test/cat/z.tif "
        "(train/cat/a.tif)"
    )


def test_places_of_identical_files_of_a_split_are_of_one_source(folder):
    shutil.copy(folder / "train" / "cat" / "a.tif", folder / "train" / "cat" / "z.tif")
    found = data(folder).split(Split.TRAIN)
    assert found.sources.tolist() == [0] * 6 + [0] * 6 + [2] * 2
    (note,) = data(folder).notes()
    assert note.startswith("1 of 3 train images repeat others of the split, such as train/cat/z")


@pytest.mark.parametrize("use", ["prepare", "verify", "notes"])
def test_one_file_in_two_classes_is_refused(folder, use):
    shutil.copy(folder / "train" / "cat" / "a.tif", folder / "train" / "dog" / "z.tif")
    with pytest.raises(
        DataError, match=r"^large_images: in .*2 images have a copy in another"
    ) as e:
        getattr(data(folder), use)()
    assert "such as train/cat/a.tif and train/dog/z.tif" in str(e.value)


def test_an_unlabelled_copy_of_a_test_image_is_counted(folder):
    (folder / "unlabeled").mkdir()
    shutil.copy(folder / "test" / "dog" / "d.tif", folder / "unlabeled" / "u.tif")
    (note,) = data(folder).notes()
    assert note.startswith("SEEN IN TRAINING: 1 of 2 test images are also unlabelled images")
    assert data(folder).split(Split.TRAIN).sources.tolist() == [0] * 6 + [1] * 2


def test_a_labelled_image_smaller_than_a_place_is_named_and_its_class_does_not_vanish(folder):
    small = folder / "test" / "dog" / "d.tif"
    tifffile.imwrite(small, np.zeros((32, 31), np.uint8), tile=(16, 16))
    with pytest.raises(
        DataError, match=r"d\.tif has no place of 32 pixels, for it is 32×31 at"
    ) as e:
        data(folder).prepare()
    assert "\n" not in str(e.value)


def test_a_folder_that_is_not_there_is_one_line(folder):
    with pytest.raises(DataError, match=r"^large_images: no folder .*/none: give --data-dir"):
        data(folder / "none").prepare()
