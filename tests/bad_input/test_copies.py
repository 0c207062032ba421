"""Copies under other names, in other formats, classes, speakers and splits: found, or no copies."""

import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from gim_bench.contract import Dataset, Split
from gim_bench.datasets.images.image_folder import ImageFolder
from gim_bench.datasets.speech.audio_folder import AudioFolder
from gim_bench.errors import DataError
from tests.bad_input.feed import check_line, encoded, fed, folder_of_its_own
from tests.datasets.speech.speech_files import samples_of

SIDE = 8
SUFFIXES = {"PNG": ".png", "BMP": ".bmp", "WEBP": ".webp"}


@cache
def _image(number: int, kind: str) -> bytes:
    pixels = np.random.default_rng(number).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    written = io.BytesIO()
    how = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(pixels).save(written, kind, **how)
    return written.getvalue()


def _refusal(dataset: Dataset) -> str:
    """The line with which a data set refuses its files; empty where it does not."""
    try:
        dataset.prepare()
    except DataError as error:
        check_line(str(error))
        return str(error)
    return ""


PLACES = ("train/l", "train/r", "test/l", "test/r", "unlabeled")
IMAGES = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(sorted(SUFFIXES)), st.integers(0, 3)),
    max_size=8,
)


def _below(place: str, images: Iterable[tuple[str, int]]) -> list[int]:
    """Contents of the images in a folder."""
    return [number for folder, number in images if folder.startswith(place)]


@fed(80, drawn=IMAGES)
def test_copies_of_images_are_counted_across_splits_and_refused_across_classes(drawn):
    fixed = [(place, "PNG", 10 + number) for number, place in enumerate(PLACES)]
    images = [(place, number) for place, _, number in fixed + drawn]
    with folder_of_its_own() as folder:
        for number, (place, kind, content) in enumerate(fixed + drawn):
            path = folder / "mine" / place / f"{number}{SUFFIXES[kind]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_image(content, kind))
        mine = ImageFolder(
            options=ImageFolder.Options(size=SIDE),
            data_dir=folder / "mine",
            cache_dir=folder / "cache",
        )
        classes = [set(_below(f"train/{c}", images) + _below(f"test/{c}", images)) for c in "lr"]
        refused = _refusal(mine)
        assert bool(refused) == bool(classes[0] & classes[1]), refused
        if refused:
            return
        notes = mine.notes()
        test = _below("test", images)
        for split, other in ((Split.TRAIN, "train"), (Split.UNLABELLED, "unlabeled")):
            theirs = _below(other, images)
            seen = sum(content in theirs for content in test)
            line = rf": {seen} of {len(test)} test images are also {split} images"
            assert any(re.search(line, note) for note in notes) == bool(seen)


# -- recordings ------------------------------------------------------------------------------------

CONTAINERS = {".wav": "WAV", ".flac": "FLAC", ".aiff": "AIFF", ".au": "AU", ".w64": "W64",
              ".caf": "CAF", ".rf64": "RF64", ".ogg": "OGG", ".mp3": "MP3"}  # fmt: skip
CODINGS = {".ogg": "VORBIS", ".mp3": "MPEG_LAYER_III"}
UNREAD = (".txt", ".m4a", "")
SPEAKERS = ("ann", "bob", "caf\u00e9", "cafe\u0301")
NAMES = ("1", "2", "a b", "caf\u00e9", "cafe\u0301")
FILES = st.lists(
    st.tuples(
        st.sampled_from(SPEAKERS),
        st.sampled_from(NAMES),
        st.sampled_from((*CONTAINERS, *UNREAD)),
        st.integers(0, 5),
    ),
    max_size=8,
    unique_by=lambda file: file[:3],
)


@cache
def _sound(number: int, suffix: str) -> bytes:
    if suffix in UNREAD:
        return b"no sound"
    samples = np.random.default_rng(number).integers(-9_999, 9_999, size=2_400, dtype=np.int16)
    return encoded(samples, kind=CONTAINERS[suffix], subtype=CODINGS.get(suffix, "PCM_16"))


def _write_sounds(root: Path, files: Iterable[tuple[str, str, str, int]]) -> None:
    for speaker, name, suffix, number in files:
        path = root / speaker / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_sound(number, suffix))


@fed(80, drawn=FILES)
def test_every_recording_is_used_or_counted_and_copies_share_a_split_and_a_speaker(drawn):
    fixed = [
        (speaker, f"own {take}", ".wav", 10 * speaker.count("a") + take + 20)
        for speaker in ("ann", "bob")
        for take in range(2)
    ]
    speakers = defaultdict(set)  # by what is heard: lossy formats change the samples
    read = [file for file in fixed + drawn if file[2] not in UNREAD]
    for speaker, _, suffix, number in read:
        speakers[number, CODINGS.get(suffix)].add(unicodedata.normalize("NFC", speaker))
    with folder_of_its_own() as folder:
        _write_sounds(folder / "mine", fixed + drawn)
        mine = AudioFolder(
            options=AudioFolder.Options(),
            data_dir=folder / "mine",
            cache_dir=folder / "cache",
        )
        is_contradicted = any(len(named) > 1 for named in speakers.values())
        refused = _refusal(mine)
        assert ("the same audio under two speakers" in refused) == is_contradicted
        if refused:
            assert is_contradicted, refused
            return
        train, test = (samples_of(mine.split(split)) for split in (Split.TRAIN, Split.TEST))
        assert len(train) + len(test) == len(read)
        assert not {tuple(one) for one in train} & {tuple(one) for one in test}
        left_out = len(fixed + drawn) - len(read)
        counted = [note for note in mine.notes() if note.startswith(f"left out: {left_out} file")]
        assert len(counted) == bool(left_out)
