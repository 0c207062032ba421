"""Examples of the same decoded content."""

import os

import numpy as np
import pytest

from gim_bench.contract import Split
from gim_bench.datasets.duplicates import (
    Duplicates,
    contradictions,
    first_of_same,
    remembered_first,
    sources,
)
from tests.listener import Listener

PIECES = [np.full(4, value, np.int16) for value in (5, 6, 5, 7, 6, 5)]


def slowly(pieces):
    """As `first_of_same`, by comparing every pair."""
    contents = [piece.tobytes() for piece in pieces]
    return [contents.index(content) for content in contents]


def duplicates(first, **splits):
    numbers = {Split(name): np.array(own) for name, own in splits.items()}
    return Duplicates(
        first=np.array(first), name=lambda number: f"{number}.png", splits=numbers, noun="image"
    )


# -- contents ------------------------------------------------------------------------------------


def test_each_piece_is_numbered_by_the_first_of_its_content():
    assert first_of_same(PIECES).tolist() == [0, 1, 0, 3, 1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_hashes_find_the_pairs_that_a_comparison_of_values_finds(seed):
    draw = np.random.default_rng(seed)
    pieces = [draw.integers(2, size=draw.integers(1, 5), dtype=np.int16) for _ in range(40)]
    assert first_of_same(pieces).tolist() == slowly(pieces)


def test_images_in_any_layout_of_memory_are_compared_by_their_pixels():
    image = np.random.default_rng(0).integers(256, size=(3, 8, 8), dtype=np.uint8)
    turned = np.ascontiguousarray(image.transpose(1, 2, 0)).transpose(2, 0, 1)
    assert first_of_same([image, turned, image.transpose(0, 2, 1)]).tolist() == [0, 0, 2]


def test_empty_pieces_are_duplicates_of_none():
    assert first_of_same([np.empty(0, np.int16)] * 3).tolist() == [0, 1, 2]


def test_no_pieces_have_no_duplicates():
    assert first_of_same([]).tolist() == []


# -- what is remembered --------------------------------------------------------------------------


@pytest.fixture
def find(tmp_path):
    """Finds the duplicates among pieces; returns them and the listener."""

    def found(pieces=tuple(PIECES), *, path=tmp_path / "found.json"):
        listener = Listener()
        first = remembered_first(
            path, pieces=iter(pieces), count=len(PIECES), noun="piece", progress=listener
        )
        return first.tolist(), listener

    return found


def test_contents_are_read_once(find):
    first, listener = find()
    assert listener.tasks == [("comparing contents", 6, "piece")]
    assert listener.steps == 6
    again, listener = find(pieces=())
    assert again == first == [0, 1, 0, 3, 1, 0]
    assert listener.tasks == []


@pytest.mark.parametrize("damage", ["cut", "altered", "of other data"])
def test_a_damaged_memory_is_made_anew(find, tmp_path, damage):
    find()
    path = tmp_path / "found.json"
    match damage:
        case "cut":
            os.truncate(path, 20)
        case "altered":
            path.write_bytes(path.read_bytes().replace(b"0, 1, 0]", b"0, 0, 0]"))
        case "of other data":
            remembered_first(
                path.with_name("other.json"),
                pieces=PIECES[:2],
                count=2,
                noun="piece",
                progress=Listener(),
            )
            path.with_name("other.json").replace(path)
    assert find()[0] == [0, 1, 0, 3, 1, 0]


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(find, tmp_path):
    (tmp_path / "cache").write_bytes(b"")  # a file where the folder belongs
    first, listener = find(path=tmp_path / "cache" / "found.json")
    assert first == [0, 1, 0, 3, 1, 0]
    (line,) = listener.lines
    assert line.startswith("contents will be compared again next time: ")


# -- what is said --------------------------------------------------------------------------------


def test_without_duplicates_nothing_is_said():
    assert duplicates([0, 1, 2], train=[0, 1], test=[2]).described() == []


def test_test_examples_in_training_are_counted_with_an_example():
    found = duplicates([0, 1, 2, 1, 0], train=[0, 1, 2], test=[3, 4])
    assert found.described() == [
        "SEEN IN TRAINING: 2 of 2 test images are also train images, such as 3.png (1.png)"
    ]


def test_unlabelled_test_examples_are_counted_apart():
    found = duplicates([0, 1, 2, 0, 1], unlabelled=[0], train=[1, 2], test=[3, 4])
    assert found.described() == [
        "SEEN IN TRAINING: 1 of 2 test images are also train images, such as 4.png (1.png)",
        "SEEN IN TRAINING: 1 of 2 test images are also unlabelled images, such as 3.png (0.png)",
    ]


def test_train_examples_among_the_unlabelled_are_no_leak():
    assert duplicates([0, 1, 0, 3], unlabelled=[0, 1], train=[2], test=[3]).described() == []


def test_repeats_within_a_split_are_counted_without_the_first():
    (line,) = duplicates([0, 0, 2, 0, 4], train=[0, 1, 2, 3], test=[4]).described()
    assert line == "2 of 4 train images repeat others of the split, such as 1.png (0.png)"


def test_duplicates_share_a_source():
    assert sources(np.array([4, 1, 4])).tolist() == [4, 1, 4]


def test_a_split_without_duplicates_has_no_sources():
    assert sources(np.array([4, 1, 0])) is None


# -- labels --------------------------------------------------------------------------------------


def test_a_content_of_two_labels_contradicts_itself():
    first, labels = np.array([0, 1, 0, 1, 4]), np.array([4, 5, 4, 6, 3])
    assert contradictions(first, labels=labels) == [[1, 3]]


def test_all_examples_of_a_contradiction_are_listed_and_two_labels_stand_first():
    assert contradictions(np.zeros(4, int), labels=np.array([7, 7, 7, 8])) == [[0, 3, 1, 2]]


def test_examples_without_a_label_contradict_nothing():
    assert contradictions(np.zeros(4, int), labels=np.array([-1, 2, -1, 3])) == [[1, 3]]
    assert contradictions(np.zeros(4, int), labels=np.array([-1, 2, -1, 2])) == []
