"""Images of the same pixels in a folder of one's own images."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gim_bench.contract import Split
from gim_bench.datasets.images.crops import ImageBatches
from gim_bench.datasets.images.image_folder import ImageFolder
from gim_bench.errors import DataError
from gim_bench.probing.questions import question
from gim_bench.settings.augmentations import CropSettings
from gim_bench.settings.probing import LogisticRegressionSettings
from tests.listener import Listener

CLASSES, TRAIN, TEST = ("left", "top"), 12, 5


@pytest.fixture
def root(tmp_path):
    """Two classes of noise: 12 train and 5 test images each, all different."""
    draw = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for name in CLASSES:
            for number in range(count):
                path = tmp_path / "mine" / split / name / f"{number:02}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = draw.integers(256, size=(16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return tmp_path / "mine"


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def data(root, tmp_path, listener):
    """Makes the data set anew, as the next start of the program does."""

    def make(**options):
        return ImageFolder(
            options=ImageFolder.Options(size=16, **options),
            data_dir=root,
            cache_dir=tmp_path / "cache",
            progress=listener,
        )

    return make


def copy(root, name, to):
    """Save the pixels of the image `name` as `to`, in the format of its suffix."""
    path = root / to
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(root / name) as image:
        image.save(path, **({"lossless": True} if path.suffix == ".webp" else {}))


def copied_into_test(root):
    for name in CLASSES:
        shutil.rmtree(root / "test" / name)
        shutil.copytree(root / "train" / name, root / "test" / name)


def asked(mine, *, seed=0):
    """The question of the class, as probes are fitted and validated on the train split."""
    batches = ImageBatches(
        mine.split(Split.TRAIN),
        augmentation=CropSettings(kind="crop", crop=16, mean=(0.5,), std=(0.2,)),
        batch_size=4,
        stream=("image_folder", seed),
        device=torch.device("cpu"),
    )
    settings = LogisticRegressionSettings(validation_fraction=0.25)
    return question(batches, mine.targets()[0], settings=settings)


def refusal(use):
    with pytest.raises(DataError) as caught:
        use()
    line = str(caught.value)
    assert "\n" not in line
    return line


# -- without duplicates --------------------------------------------------------------------------


def test_without_duplicates_the_splits_name_no_sources_and_nothing_is_said(data):
    mine = data()
    assert [mine.split(split).sources for split in Split] == [None, None, None]
    assert mine.notes() == []


@pytest.mark.parametrize(
    ("seed", "validating"), [(0, [3, 5, 9, 18, 19, 20]), (1, [1, 3, 9, 13, 15, 17])]
)
def test_without_duplicates_validation_is_that_of_the_first_release(data, seed, validating):
    """Numbers of the validation images, as the code drew them before it looked for duplicates."""
    assert asked(data(), seed=seed).validation_items.tolist() == validating


def test_a_copy_that_training_has_once_moves_no_validation_image(root, data):
    before = asked(data()).validation_items.tolist()
    copy(root, "train/left/03.png", "test/left/zz.png")
    assert asked(data()).validation_items.tolist() == before


# -- test images among the train images ----------------------------------------------------------


# case 3
def test_test_images_that_are_train_images_are_counted(root, data):
    copied_into_test(root)
    (note,) = data().notes()
    assert note == (
        "SEEN IN TRAINING: 24 of 24 test images are also train images, such as test/left/00.png "
        "(train/left/00.png)"
    )


# case 3
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
def test_a_test_image_is_found_in_training_whatever_its_lossless_format(root, data, suffix):
    copy(root, "train/top/05.png", f"test/top/other{suffix}")
    (note,) = data().notes()
    assert "1 of 11 test images are also train images" in note
    assert f"test/top/other{suffix} (train/top/05.png)" in note


# case 3
def test_test_images_among_the_unlabelled_are_counted_and_kept(root, data):
    copy(root, "test/left/00.png", "unlabeled/deep/1.png")
    copy(root, "train/left/00.png", "unlabeled/deep/2.png")
    mine = data()
    (note,) = mine.notes()
    assert "1 of 10 test images are also unlabelled images" in note
    assert [len(mine.split(split)) for split in Split] == [2, 2 * TRAIN, 2 * TEST]


def test_verify_notes_the_copies_as_prepare_does(root, data):
    copied_into_test(root)
    mine = data()
    mine.verify()
    assert any("24 of 24 test images" in note for note in mine.notes())


# -- copies within a split -----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_no_image_both_fits_and_validates_a_probe(root, data, seed):
    for name in CLASSES:
        for number in range(TRAIN // 2):
            copy(root, f"train/{name}/{number:02}.png", f"train/{name}/again {number}.bmp")
    mine = data()
    found, images = asked(mine, seed=seed), mine.split(Split.TRAIN).images
    sides = [
        {images[place].tobytes() for place in found.places[found.validating == validating]}
        for validating in (True, False)
    ]
    assert min(map(len, sides)) > 0
    assert not sides[0] & sides[1]


def test_copies_within_a_split_are_counted_and_share_a_source(root, data):
    copy(root, "train/left/03.png", "train/left/x/1.bmp")
    copy(root, "train/left/03.png", "train/left/x/2.webp")
    mine = data()
    (note,) = mine.notes()
    assert note == (
        "2 of 26 train images repeat others of the split, such as train/left/x/1.bmp "
        "(train/left/03.png)"
    )
    train = mine.split(Split.TRAIN)
    assert len(np.unique(train.sources)) == 24
    assert mine.split(Split.UNLABELLED).sources.tolist() == train.sources.tolist()
    assert mine.split(Split.TEST).sources is None


# -- copies in two classes -----------------------------------------------------------------------


# case 3
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("use", [ImageFolder.prepare, ImageFolder.verify])
def test_one_image_in_two_classes_is_refused_with_both_files(root, data, split, use):
    copy(root, "train/left/03.png", f"{split}/top/odd.bmp")
    line = refusal(lambda: use(data()))
    assert f"train/left/03.png and {split}/top/odd.bmp" in line
    assert "2 images have a copy in another class" in line


def test_images_in_two_classes_are_counted(root, data):
    for number in range(4):
        copy(root, f"train/left/{number:02}.png", f"train/top/odd {number}.png")
    assert "8 images have a copy in another class" in refusal(data().prepare)


def test_images_in_two_classes_are_kept_where_the_suite_says_so(root, data, listener):
    data(in_two_classes="keep").prepare()
    copy(root, "train/left/03.png", "train/top/odd.png")
    mine = data(in_two_classes="keep")
    assert len(mine.split(Split.TRAIN)) == 2 * TRAIN + 1
    repeats, in_two = mine.notes()
    assert repeats.startswith("1 of 25 train images repeat others")
    assert in_two == (
        "2 images have a copy in another class, such as train/left/03.png and train/top/odd.png"
    )


def test_whether_copies_are_kept_costs_no_decoding(data, listener):
    data().prepare()
    listener.tasks.clear()
    data(in_two_classes="keep").prepare()
    assert listener.tasks == []


# -- what is remembered --------------------------------------------------------------------------


def test_pixels_are_compared_once(root, data, listener):
    data().prepare()
    assert ("comparing contents", 2 * (TRAIN + TEST), "image") in listener.tasks
    listener.tasks.clear()
    data().prepare()
    assert listener.tasks == []


def test_a_new_copy_is_noticed_at_the_next_start(root, data):
    assert data().notes() == []
    copy(root, "train/left/03.png", "test/left/99.png")
    assert len(data().notes()) == 1
