"""Splits of recordings that depend on their ids."""

from pathlib import Path

import pytest

from gim_bench.contract import Split
from gim_bench.datasets.speech.audio_files import AudioFile, Recording
from gim_bench.datasets.speech.splits import draw, split_by_name


def recordings(names):
    """Of speakers a, b, … by the first letter of each name."""
    return [
        Recording(
            file=AudioFile(path=Path(name), name=name, id=name, speaker=name[0]),
            start=0,
            length=1,
        )
        for name in names
    ]


def split(names, *, test_fraction=0.2, test_every_speaker=False):
    found = split_by_name(
        recordings(names), test_fraction=test_fraction, test_every_speaker=test_every_speaker
    )
    train, test = ([r.file.id for r in found[part]] for part in (Split.TRAIN, Split.TEST))
    assert sorted([*train, *test]) == sorted(names)
    return train, test


MANY = [f"{speaker}{number}" for speaker in "abcde" for number in range(400)]


def test_a_fifth_is_for_testing():
    _, test = split(MANY)
    assert len(test) == pytest.approx(400, rel=0.1)


def test_a_draw_is_the_names_sha256_as_a_fraction():
    """sha256("abc") begins with ba7816bf 8f01."""
    assert draw("abc") == 0xBA7816BF8F01 / 2**48


def test_a_recording_stays_in_its_split_whatever_others_come_and_go():
    _, test = split(MANY)
    _, of_half = split(MANY[::2])
    assert set(of_half) == set(test) & set(MANY[::2])


@pytest.mark.parametrize("every", [True, False])
def test_a_new_recording_moves_a_stand_in_alone(every):
    """Speakers without a chosen test recording, or training recording, have a stand-in."""
    names = [*drawn(testing=False)[:4], *(name for name in MANY if name[0] != "a")]
    _, test = split(names, test_every_speaker=every)
    new = drawn(testing=True)[0]
    _, then = split([new, *names], test_every_speaker=every)
    stand_in = {min(names[:4], key=draw)} if every else set()
    assert set(then) == set(test) - stand_in | {new}


def test_the_order_of_recordings_is_kept():
    train, test = split(MANY)
    assert train == [name for name in MANY if name not in set(test)]
    assert test == [name for name in MANY if name in set(test)]


def drawn(*, testing):
    """Names of one speaker that all are drawn for testing, or for training."""
    return [name for name in MANY if name[0] == "a" and (draw(name) < 0.2) == testing]


def test_a_speaker_drawn_for_testing_alone_keeps_the_first_for_training():
    names = drawn(testing=True)[:4]
    assert split(names) == (names[:1], names[1:])


def test_a_single_recording_is_for_training():
    for name in (drawn(testing=True)[0], drawn(testing=False)[0]):
        for every in (True, False):
            assert split([name], test_every_speaker=every) == ([name], [])


def test_where_every_speaker_is_to_be_tested_the_lowest_draw_is():
    names = drawn(testing=False)[:4]
    assert split(names) == (names, [])
    train, test = split(names, test_every_speaker=True)
    assert test == [min(names, key=draw)]
    assert len(train) == 3
