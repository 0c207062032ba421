"""LibriSpeech, on short recordings in exactly the official layout, and on some of its own."""

import hashlib
import http.server
import io
import os
import shutil
import tarfile
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.datasets import librispeech as official

from gim_bench.contract import Modality, Recordings, Split
from gim_bench.datasets import files
from gim_bench.datasets.speech import librispeech
from gim_bench.datasets.speech.librispeech import LibriSpeech
from gim_bench.datasets.speech.splits import draw
from gim_bench.errors import DataError
from gim_bench.system.atomic import atomically
from tests.datasets.speech.speech_files import frames_of, ramp, samples_of, write
from tests.listener import Listener

SAMPLE = Path(__file__).resolve().parents[4] / "shared" / "data" / "librispeech-sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"no LibriSpeech sample in {SAMPLE}")

# Of 1,600 samples, so with 8 frames, but for the last one of each speaker.
UTTERANCES = {
    f"{speaker}-{chapter}-{number:04d}": (1_600 if number else 1_200)
    for speaker, chapter in (("103", "1240"), ("19", "198"), ("19", "227"))
    for number in range(5)
}
LABELS = "LibriSpeech100_labels_split"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*arguments, **options):
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def flacs():
    """The recordings, by their paths below train-clean-100; each has samples of its own."""
    return {
        "{}/{}/".format(*name.split("-")[:2]) + f"{name}.flac": ramp(length, first=100 * n)
        for n, (name, length) in enumerate(sorted(UTTERANCES.items()))
    }


@pytest.fixture
def root(tmp_path):
    """train-clean-100 in its place below the data folder."""
    root = tmp_path / "data" / "LibriSpeech" / "train-clean-100"
    for name, samples in flacs().items():
        write(root / name, samples)
    return root


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def data(tmp_path, listener):
    """Makes the data set anew, as the next start of the program does."""

    def make(data_dir=tmp_path / "data", **options):
        return LibriSpeech(
            options=LibriSpeech.Options(**options),
            data_dir=data_dir,
            cache_dir=tmp_path / "cache",
            progress=listener,
        )

    return make


@pytest.fixture
def decodings(monkeypatch):
    """The files that were decoded."""
    decoded, read = [], librispeech.read_audio

    def spy(path, **how):
        decoded.append(path.name)
        return read(path, **how)

    monkeypatch.setattr(librispeech, "read_audio", spy)
    return decoded


def label(root, lines, *, folder=LABELS):
    """Put phone labels beside LibriSpeech."""
    path = root.parents[1] / folder / "converted_aligned_phones.txt"
    path.parent.mkdir(exist_ok=True)
    text = lines if isinstance(lines, str) else "".join(f"{i} {p}\n" for i, p in lines.items())
    path.write_text(text)
    return path


def divide(root, *, train, test, folder=LABELS):
    """Put split files beside LibriSpeech."""
    place = root.parents[1] / folder
    place.mkdir(exist_ok=True)
    (place / "train_split.txt").write_text("".join(f"{name}\n" for name in train))
    (place / "test_split.txt").write_text("".join(f"{name}\n" for name in test))
    return place


def eight(phone):
    return " ".join([str(phone)] * 8)


def path_of(root, name):
    return next(root.rglob(f"{name}.flac"))


def alter(path, *, at=-1):
    """Another byte, the same size, a later mtime."""
    content, mtime_ns = bytearray(path.read_bytes()), path.stat().st_mtime_ns + 10**9
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def skipped(mine):
    """The one note on what was skipped."""
    (line,) = (line for line in mine.notes() if line.startswith("skipped "))
    return line


def refusal(mine, use=LibriSpeech.prepare):
    """The one line with which the data set refuses."""
    with pytest.raises(DataError) as caught:
        use(mine)
    line = str(caught.value)
    assert "\n" not in line
    return line


TESTED = [name for name in UTTERANCES if draw(name) < librispeech.TEST_FRACTION]


# -- splits --------------------------------------------------------------------------------------


def test_utterances_are_split_by_their_ids_where_there_are_no_split_files(root, data, listener):
    by_name = dict(zip(sorted(UTTERANCES), flacs().values(), strict=True))
    assert TESTED
    mine = data()
    assert samples_of(mine.split(Split.TEST)) == [by_name[n].tolist() for n in sorted(TESTED)]
    train = [by_name[name].tolist() for name in sorted(UTTERANCES) if name not in TESTED]
    assert samples_of(mine.split(Split.TRAIN)) == train
    assert sum("chosen by their ids" in line for line in listener.lines) == 1


def test_recordings_are_views_of_one_mapped_array(root, data):
    mine = data()
    train, test = mine.split(Split.TRAIN), mine.split(Split.TEST)
    assert isinstance(train, Recordings)
    assert mine.modality is Modality.SPEECH
    assert isinstance(train.samples, np.memmap)
    assert train.samples is test.samples
    assert train.samples.dtype == np.int16
    assert train.starts.dtype == train.lengths.dtype == np.int64


def test_samples_go_to_torch_and_writing_there_never_reaches_the_cache(root, data):
    before = samples_of(data().split(Split.TRAIN))
    torch.from_numpy(data().split(Split.TRAIN).samples).zero_()
    assert samples_of(data().split(Split.TRAIN)) == before


def test_the_train_recordings_serve_as_unlabelled_ones(root, data):
    label(root, dict.fromkeys(UTTERANCES, eight(3)))
    train, unlabelled = data().split(Split.TRAIN), data().split(Split.UNLABELLED)
    assert samples_of(unlabelled) == samples_of(train)
    assert (unlabelled.labels, unlabelled.frames) == ({}, {})


def test_speakers_are_numbered_in_order_of_their_ids(root, data):
    mine = data()
    (speaker,) = mine.targets()
    assert (speaker.name, speaker.classes, speaker.per_step) == ("speaker", ["103", "19"], False)
    labels = mine.split(Split.TRAIN).labels["speaker"]
    expected = [int(name.startswith("19")) for name in sorted(UTTERANCES) if name not in TESTED]
    assert labels.tolist() == expected
    assert labels.dtype == np.int64


@pytest.mark.parametrize("folder", [LABELS, "."])
def test_split_files_decide_where_they_are(root, data, listener, folder):
    names = sorted(UTTERANCES)
    divide(root, train=names[::2], test=[*names[1::2], ""], folder=folder)
    mine = data()
    assert len(mine.split(Split.TRAIN)) == 8
    assert samples_of(mine.split(Split.TEST)) == [v.tolist() for v in flacs().values()][1::2]
    assert sum("split by" in line for line in listener.lines) == 1


def test_ids_without_audio_and_audio_without_a_split_are_counted(root, data):
    names = sorted(UTTERANCES)
    divide(root, train=[*names[:8], "7-7-0007", "7-7-0008"], test=[*names[10:], "8-8-0008"])
    mine = data()
    assert [len(mine.split(split)) for split in Split] == [8, 8, 5]
    files = "train_split.txt and test_split.txt"
    for line in (
        f"3 utterances in {files} without audio are not used",
        f"2 recordings in neither of {files} are not used",
    ):
        assert mine.notes().count(line) == 1


def test_an_id_in_both_split_files_is_refused(root, data):
    names = sorted(UTTERANCES)
    divide(root, train=names[:8], test=names[7:])
    for skip in (False, True):
        line = refusal(data(skip_bad_files=skip))
        assert names[7] in line
        assert "train_split.txt and in test_split.txt" in line


def test_one_split_file_alone_is_refused(root, data):
    place = divide(root, train=[], test=sorted(UTTERANCES))
    (place / "train_split.txt").unlink()
    line = refusal(data())
    assert "train_split.txt is missing beside" in line


def test_split_files_of_other_recordings_are_refused(root, data):
    divide(root, train=sorted(UTTERANCES), test=["7-7-0007"])
    assert "test_split.txt names no recording that is in" in refusal(data())


def test_a_test_speaker_who_was_never_trained_on_is_refused(root, data):
    names = sorted(UTTERANCES)
    divide(root, train=names[:3], test=names[3:])
    assert "the speaker 19 has test recordings but no train recording" in refusal(data())


def test_a_malformed_id_in_a_split_file_is_named_or_skipped(root, data):
    names = sorted(UTTERANCES)
    divide(root, train=["x", *names[::2]], test=["", "19_198_0001", *names[1::2]])
    assert "train_split.txt, line 1: 'x' is no utterance" in refusal(data())
    mine = data(skip_bad_files=True)
    assert len(mine.split(Split.TRAIN)) == 8
    assert skipped(mine).startswith("skipped 2 lines, the first of them: train_split.txt, line 1: ")


def test_a_split_file_that_is_not_utf8_is_named(root, data):
    place = divide(root, train=sorted(UTTERANCES), test=[])
    (place / "test_split.txt").write_bytes(b"\xff\xfe\x00")
    assert "test_split.txt, line 1: it is UTF-16 text: save the file as UTF-8" in refusal(data())


# -- the split by chapters -------------------------------------------------------------------------


def shelve(root, chapters):
    """Put recordings in chapters there, in place of all others: {"19-198": 5}."""
    shutil.rmtree(root)
    for name, count in chapters.items():
        speaker, chapter = name.split("-")
        for number in range(count):
            write(root / speaker / chapter / f"{name}-{number:04d}.flac")


def chapters_of(mine, split):
    """Chapters of the recordings of a split, in order, without repetition."""
    chosen = mine._by_split[Split.TEST if split is Split.TEST else Split.TRAIN]
    return list(dict.fromkeys(librispeech.chapter(recording.file) for recording in chosen))


SHELF = {"8-1": 3, "8-2": 2, "8-3": 4, "9-5": 2, "9-4": 3, "7-6": 5}


def test_by_chapters_no_chapter_is_in_both_splits(root, data):
    shelve(root, SHELF)
    mine = data(split="chapters")
    train, test = chapters_of(mine, Split.TRAIN), chapters_of(mine, Split.TEST)
    assert sorted(train + test) == sorted(SHELF)
    assert len(mine.split(Split.TEST)) == sum(SHELF[name] for name in test)


def test_by_chapters_every_speaker_of_two_chapters_is_in_both_splits(root, data):
    shelve(root, SHELF)
    mine = data(split="chapters")
    for split in (Split.TRAIN, Split.TEST):
        assert {"8", "9"} <= {name.partition("-")[0] for name in chapters_of(mine, split)}


def test_by_chapters_the_lowest_draw_or_all_below_a_fifth_are_for_testing(root, data):
    """Neither depends on which other speakers and recordings are there."""
    shelve(root, SHELF)
    expected = set()
    for speaker in "89":
        names = [name for name in SHELF if name.startswith(speaker)]
        expected |= {n for n in names if draw(n) < 0.2} or {min(names, key=draw)}
    assert set(chapters_of(data(split="chapters"), Split.TEST)) == expected


def test_by_chapters_a_speaker_of_one_chapter_is_trained_on_only_and_that_is_said(
    root, data, listener
):
    shelve(root, SHELF)
    mine = data(split="chapters")
    (speaker,) = mine.targets()
    assert speaker.classes == ["7", "8", "9"]
    assert 0 not in mine.split(Split.TEST).labels["speaker"].tolist()
    (line,) = (line for line in listener.lines if "by chapters" in line)
    assert "1 speaker of one chapter, of 3, in the train split only" in line


def test_by_chapters_validation_holds_out_whole_chapters(root, data):
    shelve(root, SHELF)
    train = data(split="chapters").split(Split.TRAIN)
    numbers = {name: i for i, name in enumerate(sorted(chapters_of(data(split="chapters"), "")))}
    recorded = [
        librispeech.chapter(recording.file)
        for recording in data(split="chapters")._by_split[Split.TRAIN]
    ]
    assert train.sources.tolist() == [numbers[name] for name in recorded]
    assert train.sources.dtype == np.int64
    assert data().split(Split.TRAIN).sources is None


def test_by_chapters_split_files_decide_nothing(root, data):
    names = sorted(UTTERANCES)
    before = data(split="chapters").split(Split.TEST)
    divide(root, train=names[::2], test=names[1::2])
    assert samples_of(data(split="chapters").split(Split.TEST)) == samples_of(before)


def test_by_chapters_a_speaker_with_two_of_them_is_needed(root, data):
    shelve(root, {"8-1": 3, "9-4": 3})
    assert "no speaker in" in refusal(data(split="chapters"))
    assert "dataset.split=utterances" in refusal(data(split="chapters"))


@needs_sample
def test_by_chapters_the_real_sample_tests_the_one_speaker_of_two_chapters(tmp_path, listener):
    mine = LibriSpeech(
        options=LibriSpeech.Options(split="chapters"),
        data_dir=SAMPLE,
        cache_dir=tmp_path,
        progress=listener,
    )
    assert {name.partition("-")[0] for name in chapters_of(mine, Split.TEST)} == {"5678"}
    assert len(mine.targets()[0].classes) == 6


# -- where the files are -------------------------------------------------------------------------


def test_the_data_folder_may_be_any_of_three(root, data):
    label(root, dict.fromkeys(UTTERANCES, eight(3)))
    found = {data(folder).fingerprint() for folder in (root, root.parent, root.parents[1])}
    assert len(found) == 1
    assert [len(data(root).targets()), len(data(root.parent).targets())] == [2, 2]


def test_without_a_data_folder_the_cache_is_looked_into(root, data, tmp_path):
    (tmp_path / "cache").mkdir()
    root.parents[1].rename(tmp_path / "cache" / "librispeech")
    assert len(data(None).split(Split.TEST)) == len(TESTED)


@pytest.mark.parametrize("use", [LibriSpeech.fingerprint, LibriSpeech.targets, LibriSpeech.verify])
def test_missing_data_say_what_fetches_them_and_what_needs_none(data, tmp_path, use):
    line = refusal(data(), use)
    assert str(tmp_path / "data" / "LibriSpeech" / "train-clean-100") in line
    assert f"`python -m gim_bench data prepare --suite librispeech --data-dir {tmp_path}" in line
    assert "or try `--suite quickstart-audio`, which needs no download" in line


def test_an_empty_folder_counts_as_missing(data, tmp_path):
    (tmp_path / "data" / "LibriSpeech" / "train-clean-100").mkdir(parents=True)
    assert "no recordings in" in refusal(data(), LibriSpeech.fingerprint)


def test_a_part_of_the_data_is_used_and_its_size_is_said(root, data, listener):
    data().prepare()
    assert sum("15 of the 28,539 utterances" in line for line in listener.lines) == 1
    assert data().incomplete().startswith("15 of the 28,539 utterances of train-clean-100")


def test_all_of_the_data_with_the_published_split_is_complete(root, data, monkeypatch):
    monkeypatch.setattr(librispeech, "UTTERANCES", 15)
    divide(root, train=sorted(UTTERANCES)[:8], test=sorted(UTTERANCES)[8:])
    assert data().incomplete() == ""


@pytest.fixture
def published(root, monkeypatch):
    """Splits all of two hundred utterances, as published, and labels as many lines of each file."""
    names = [f"{s}-1-{number:04d}" for s in (8, 9) for number in range(100)]
    monkeypatch.setattr(librispeech, "UTTERANCES", len(names))
    shutil.rmtree(root)
    for name in names:
        write(root / name[0] / "1" / f"{name}.flac")

    def make(*, tested=50, labelled=200):
        train = [name for number, name in enumerate(names) if number % 4]
        divide(root, train=train, test=names[::4][:tested])
        label(root, dict.fromkeys(names[:labelled], eight(3)))

    return make


def test_all_of_the_data_with_a_shortened_test_split_is_not_the_published_data(published, data):
    published()
    assert data().incomplete() == ""
    published(tested=10)
    split = "train_split.txt and test_split.txt"
    assert data().incomplete() == f"160 of 200 recordings in {split}"
    assert f"40 recordings in neither of {split} are not used" in data().notes()


def test_all_of_the_data_with_shortened_labels_is_not_the_published_data(published, data):
    published(labelled=150)
    lacking = "50 of 200 recordings have no phone labels"
    assert data().incomplete() == lacking
    assert lacking in data().notes()


def test_published_splits_and_labels_may_lack_one_recording_in_a_hundred(published, data):
    published(tested=48, labelled=199)
    assert data().incomplete() == ""
    assert any("2 recordings in neither" in line for line in data().notes())
    assert "1 of 198 recordings have no phone labels" in data().notes()


def test_without_labels_all_of_the_data_is_complete_for_speakers(published, root, data):
    published()
    (root.parents[1] / LABELS / "converted_aligned_phones.txt").unlink()
    assert data().incomplete() == ""


def test_all_of_the_data_with_a_split_of_our_own_is_not_the_published_data(root, data, monkeypatch):
    monkeypatch.setattr(librispeech, "UTTERANCES", 15)
    assert data().incomplete() == "split without CPC's train_split.txt and test_split.txt"


def test_a_single_speaker_is_refused(root, data):
    for path in root.glob("19/*/*.flac"):
        path.unlink()
    assert "recordings of 1 speaker where two or more are needed" in refusal(data())


def test_hidden_and_other_files_are_ignored(root, data):
    before = data().fingerprint()
    (root / "19" / "198" / "._19-198-0000.flac").write_bytes(b"")
    (root / "19" / "198" / "19-198.trans.txt").write_text("19-198-0000 NORTHANGER ABBEY\n")
    assert data().fingerprint() == before


# -- what is remembered --------------------------------------------------------------------------


def test_recordings_are_decoded_once(root, data, decodings, listener):
    first = samples_of(data().split(Split.TRAIN))
    assert len(decodings) == 15
    assert ("decoding train-clean-100", 15, "recording") in listener.tasks
    listener.tasks.clear()
    assert samples_of(data().split(Split.TRAIN)) == first
    assert len(decodings) == 15
    assert listener.tasks == []  # not even checksums


def test_labels_and_splits_that_come_later_cost_no_decoding(root, data, decodings):
    before = data()
    before.prepare()
    label(root, dict.fromkeys(UTTERANCES, eight(3)))
    divide(root, train=sorted(UTTERANCES)[::2], test=sorted(UTTERANCES)[1::2])
    assert data().fingerprint() != before.fingerprint()
    data().prepare()
    assert len(decodings) == 15


@pytest.mark.parametrize("change", ["byte", "rename", "remove", "labels", "train", "test"])
def test_names_and_contents_are_part_of_the_fingerprint(root, data, change):
    labels = label(root, dict.fromkeys(UTTERANCES, eight(3)))
    splits = divide(root, train=sorted(UTTERANCES)[::2], test=sorted(UTTERANCES)[1::2])
    before, one = data().fingerprint(), path_of(root, "19-198-0003")
    match change:
        case "byte":
            alter(one)
        case "rename":
            one.rename(one.with_name("19-198-0033.flac"))
        case "remove":
            one.unlink()
        case "labels":
            alter(labels)
        case "train" | "test":
            alter(splits / f"{change}_split.txt", at=0)
    assert data().fingerprint() != before


def test_a_moved_folder_keeps_its_fingerprint(root, data, decodings):
    data().prepare()
    before = data().fingerprint()
    moved = root.parents[1].rename(root.parents[2] / "elsewhere")
    assert data(moved).fingerprint() == before
    data(moved).prepare()
    assert len(decodings) == 15


@pytest.mark.parametrize("damage", ["cut", "altered", "undescribed"])
def test_a_damaged_cache_is_redone(root, data, tmp_path, decodings, damage):
    before = samples_of(data().split(Split.TRAIN))
    (array,) = (tmp_path / "cache" / "librispeech").glob("*.bin")
    match damage:
        case "cut":
            os.truncate(array, 500)
        case "altered":
            alter(array)
        case "undescribed":
            array.with_name(f"{array.name}.json").unlink()
    assert samples_of(data().split(Split.TRAIN)) == before
    assert len(decodings) == 30


def test_a_cache_that_cannot_be_written_is_refused_with_the_room_it_needs(root, data, tmp_path):
    (tmp_path / "cache").write_bytes(b"")  # a file where the folder belongs
    line = refusal(data())
    assert "cannot keep the decoded recordings" in line
    assert f"115 MB for every hour of speech in {tmp_path / 'cache'}" in line


def test_the_folder_is_never_written_to(root, data):
    def state():
        return sorted((path, path.lstat().st_mtime_ns) for path in root.parents[1].rglob("*"))

    before = state()
    data().prepare()
    data().verify()
    assert state() == before


def test_verify_reads_and_decodes_everything_again(root, data, decodings):
    data().verify()
    decodings.clear()
    data().verify()
    assert len(decodings) == 15
    path = path_of(root, "19-198-0003")
    status = path.stat()
    alter(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert str(path) in refusal(data(), LibriSpeech.verify)


# -- files that cannot be used -------------------------------------------------------------------


def spoil(root, how, *, name="19-198-0003"):
    path = path_of(root, name)
    match how:
        case "truncated":
            noise = np.random.default_rng(0).integers(-999, 999, size=4_000, dtype=np.int16)
            write(path, noise)
            os.truncate(path, path.stat().st_size // 2)
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("no audio\n")
        case "8 kHz":
            write(path, rate_hz=8_000)
        case "no samples":
            path.unlink()
            silent = path.with_suffix(".wav")
            write(silent, ramp(0))
            silent.rename(path)  # libsndfile goes by the content
        case "misnamed":
            path.rename(path.with_name("20-198-0003.flac"))
    return path


FAULTS = {
    "truncated": "cannot be decoded",
    "empty": "cannot be decoded",
    "text": "cannot be decoded",
    "8 kHz": "it has 8,000 samples a second where LibriSpeech has 16,000",
    "no samples": "it holds no samples",
    "misnamed": "its name is not <speaker>/<chapter>/",
}


def test_what_is_left_out_is_counted_but_transcripts_belong_there(root, data):
    folder = next(root.rglob("*.flac")).parent
    (folder / "103-1240.trans.txt").write_text("103-1240-0000 CHAPTER ONE\n")
    (folder / "gone.flac").symlink_to(root / "gone")
    (folder / "cover.jpg").write_bytes(b"")
    note, *others = data().notes()
    assert note.startswith("left out: ")
    assert [line for line in others if "left out" in line] == []
    assert "1 file that is not read (.jpg): " in note
    assert "1 link that leads nowhere: " in note


@pytest.mark.parametrize(("how", "why"), FAULTS.items())
def test_a_bad_file_is_named_with_the_way_out(root, data, how, why):
    path = spoil(root, how)
    line = refusal(data())
    assert str(path.parent) in line
    assert why in line
    assert "--skip-bad-files" in line


@pytest.mark.parametrize("how", FAULTS)
def test_a_bad_file_may_be_skipped_and_is_counted_once(root, data, decodings, how):
    spoil(root, how)
    for start in ("cold", "warm"):
        mine = data(skip_bad_files=True)
        mine.prepare()
        assert sum(len(mine.split(s)) for s in (Split.TRAIN, Split.TEST)) == 14, start
        assert skipped(mine).startswith("skipped 1 audio file, the first of them: 19/198/")
        assert FAULTS[how] in skipped(mine)
    assert len(decodings) <= 15 + 3  # what is wrong is found again, and nothing else


def test_every_kind_of_bad_file_is_counted_together(root, data):
    spoil(root, "misnamed", name="19-198-0001")
    spoil(root, "text", name="19-198-0002")
    spoil(root, "empty", name="19-198-0003")
    assert "skipped 3 audio files, the first of them: " in skipped(data(skip_bad_files=True))


def test_what_was_skipped_is_an_error_again_without_the_option(root, data):
    path = spoil(root, "text")
    data(skip_bad_files=True).prepare()
    assert f"cannot use {path} (" in refusal(data())


def test_a_decoding_that_fails_leaves_no_array(root, data, tmp_path):
    spoil(root, "text")
    refusal(data())
    assert list((tmp_path / "cache" / "librispeech").iterdir()) == []


# -- phone labels --------------------------------------------------------------------------------


def test_phones_are_a_target_of_41_classes_where_the_label_file_is(root, data):
    label(root, dict.fromkeys(UTTERANCES, eight(3)))
    _, phone = data().targets()
    assert (phone.name, phone.per_step) == ("phone", True)
    assert phone.classes == [str(number) for number in range(41)]


@pytest.mark.parametrize("folder", [LABELS, "."])
def test_labels_follow_their_recordings(root, data, folder):
    names = sorted(UTTERANCES)
    label(root, {name: eight(n) for n, name in reversed(list(enumerate(names)))}, folder=folder)
    mine, test = data(), [n for n, name in enumerate(names) if name in TESTED]
    found = frames_of(mine.split(Split.TEST), "phone")
    assert [labels[0] for labels in found] == test
    assert mine.split(Split.TEST).frames["phone"].dtype == np.int16


def test_missing_labels_are_filled_and_needless_ones_are_cut_at_the_end(root, data):
    lines = dict.fromkeys(UTTERANCES, eight(3)) | {
        "19-198-0001": "1 2 3 4 5 6",
        "19-198-0002": "1 2 3 4 5 6 7 8 9 10",
    }
    lines |= {name: "1 2 3 4 5 6" for name in UTTERANCES if name.endswith("0000")}  # of 6 frames
    label(root, lines)
    divide(root, train=sorted(UTTERANCES)[:12], test=sorted(UTTERANCES)[12:])
    by_name = dict(
        zip(sorted(UTTERANCES)[:12], frames_of(data().split(Split.TRAIN), "phone"), strict=True)
    )
    assert by_name["19-198-0001"] == [1, 2, 3, 4, 5, 6, -1, -1]
    assert by_name["19-198-0002"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert by_name["19-198-0003"] == [3] * 8
    assert by_name["19-198-0000"] == [1, 2, 3, 4, 5, 6]


def test_unlabelled_utterances_are_minus_one_and_counted_once(root, data):
    names = sorted(UTTERANCES)
    divide(root, train=names[:12], test=names[12:])
    label(root, {names[1]: eight(5), names[13]: eight(6)})
    mine = data()
    frames = frames_of(mine.split(Split.TRAIN), "phone")
    assert frames[1] == [5] * 8
    assert frames[2] == [-1] * 8
    assert mine.notes().count("13 of 15 recordings have no phone labels") == 1


def test_labels_without_audio_are_ignored_and_counted_once(root, data):
    lines = dict.fromkeys(UTTERANCES, eight(3)) | {"7-7-0007": "1", "7-7-0008": "2"}
    label(root, lines)
    mine = data()
    assert len(mine.targets()) == 2
    mine.split(Split.TEST)
    assert mine.notes().count("labels of 2 utterances without audio are not used") == 1


def test_labels_of_nothing_that_is_here_are_the_wrong_file(root, data):
    path = label(root, {"7-7-0007": "1", "7-7-0008": "2"})
    line = refusal(data(skip_bad_files=True))
    assert f"{path} labels '7-7-0007' and none of the recordings" in line
    assert "'103-1240-0000'" in line


def test_without_a_label_file_phones_are_left_out_and_it_is_said_how_to_get_it(
    root, data, listener
):
    mine = data()
    assert [target.name for target in mine.targets()] == ["speaker"]
    assert mine.split(Split.TRAIN).frames == {}
    (line,) = (line for line in listener.lines if "phones are left out" in line)
    assert "CPC authors publish it as LibriSpeech100_labels_split" in line
    assert str(root.parents[1] / LABELS) in line


def test_labels_of_train_recordings_alone_make_no_target(root, data):
    train = [name for name in UTTERANCES if name not in TESTED]
    label(root, dict.fromkeys(train, eight(3)))
    mine = data()
    assert [target.name for target in mine.targets()] == ["speaker"]
    assert mine.split(Split.TRAIN).frames == {}
    assert any("no test recording is labelled" in line for line in mine.notes())


BAD_LINES = {
    "19-198-0003 1 41 1": "'41' is no phone",
    "19-198-0003 1 1.5": "'1.5' is no phone",
    "19-198-0003": "no numbers follow",
    "19-198-0002 1 1 1 1 1 1 1 1": "labelled in line 1 already",
    "198-0003 1 1": "'198-0003' is no utterance",
    "19-198-0003 1 1 1": "19-198-0003 has 3 labels where its audio has 8 frames of 10 ms",
    "19-198-0003 " + "1 " * 11: "has 11 labels where its audio has 8 frames",
}


@pytest.mark.parametrize(("bad", "why"), BAD_LINES.items())
def test_a_bad_line_is_named_or_skipped(root, data, bad, why):
    names = sorted(UTTERANCES)
    divide(root, train=names[:12], test=names[12:])
    path = label(root, f"19-198-0002 {eight(1)}\n{bad}\n{names[13]} {eight(1)}\n")
    line = refusal(data())
    assert f"librispeech: cannot use {path}, line 2: " in line
    assert why in line
    assert "--skip-bad-files" in line
    mine = data(skip_bad_files=True)
    assert [len(target.classes) for target in mine.targets()] == [2, 41]
    mine.split(Split.TEST)
    first = "skipped 1 label line, the first of them: converted_aligned_phones.txt, line 2: "
    assert skipped(mine).startswith(first)


# -- fetching ------------------------------------------------------------------------------------


def archive(extra=None):
    """train-clean-100.tar.gz, with what else there may be."""
    members = dict(extra or {})
    for name, samples in flacs().items():
        content = io.BytesIO()
        soundfile.write(content, samples, 16_000, format="FLAC")
        members[f"LibriSpeech/train-clean-100/{name}"] = content.getvalue()
    members["LibriSpeech/train-clean-100/19/198/19-198.trans.txt"] = b"19-198-0000 NORTHANGER\n"
    members["LibriSpeech/SPEAKERS.TXT"] = b"; Some pipe(|) separated metadata\n"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's `content`, the rest of it where a range is asked for, up to `cut`."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.server.content) - start))
        self.end_headers()
        self.wfile.write(self.server.content[start : self.server.cut])

    def log_message(self, *arguments): ...


ONLINE = urllib.request.urlopen  # before any test takes it away


@pytest.fixture
def serve(monkeypatch):
    """Serves an archive at the official address."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()

        def start(content, *, cut=None, sha256=None):
            server.content, server.cut, server.asked = content, cut, []
            url = f"http://127.0.0.1:{server.server_port}/train-clean-100.tar.gz"
            monkeypatch.setattr(librispeech, "URL", url)
            expected = sha256 or hashlib.sha256(content).hexdigest()
            monkeypatch.setitem(official._CHECKSUMS, url, expected)
            monkeypatch.setattr(urllib.request, "urlopen", ONLINE)
            return server

        yield start
        server.shutdown()
        thread.join()


def found_in(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


ALL = sorted(f"LibriSpeech/train-clean-100/{name}" for name in flacs())


def test_torchaudio_knows_the_address():
    assert len(librispeech.official_sha256()) == 64


def test_prepare_downloads_unpacks_and_leaves_the_recordings_alone(data, serve, tmp_path):
    serve(archive())
    data().prepare()
    assert found_in(tmp_path / "data") == ALL
    assert len(data().split(Split.TEST)) == len(TESTED)


def test_prepare_without_a_data_folder_fetches_into_the_cache(data, serve, tmp_path):
    serve(archive())
    data(None).prepare()
    assert len(list((tmp_path / "cache" / "librispeech").glob("LibriSpeech/*/*/*/*.flac"))) == 15


def test_prepare_leaves_what_is_there(root, data):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.flac")}
    data().prepare()  # there is no network in this test
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.flac")} == before


def test_prepare_without_network_is_one_line_that_offers_two_ways_out(data, tmp_path):
    line = refusal(data())
    assert "Network is unreachable" in line
    assert str(tmp_path / "data" / "train-clean-100.tar.gz") in line
    assert "--suite quickstart-audio" in line


def test_a_download_that_broke_off_is_carried_on(data, serve, tmp_path):
    content = archive()
    serve(content, cut=1_000)
    assert "run the same command again" in refusal(data())
    server = serve(content)
    data().prepare()
    assert server.asked == ["bytes=1000-"]
    assert found_in(tmp_path / "data") == ALL


def test_an_archive_that_arrives_with_another_sha256_is_not_unpacked(data, serve, tmp_path):
    serve(archive(), sha256="0" * 64)
    assert "has sha256" in refusal(data())
    assert found_in(tmp_path / "data") == []


@pytest.mark.parametrize("place", ["data", "data/LibriSpeech"])
def test_an_archive_put_there_by_hand_is_unpacked_and_kept(data, serve, tmp_path, place):
    server, path = serve(archive()), tmp_path / place / "train-clean-100.tar.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(server.content)
    data().prepare()
    assert server.asked == []
    assert found_in(tmp_path / "data") == sorted(
        [*ALL, path.relative_to(tmp_path / "data").as_posix()]
    )


def test_an_archive_put_there_with_another_sha256_is_named(data, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-clean-100.tar.gz").write_bytes(b"something else")
    assert "train-clean-100.tar.gz has sha256" in refusal(data())


@pytest.mark.parametrize(
    "evil",
    [
        "../evil.flac",
        "LibriSpeech/train-clean-100/../../../evil.flac",
        "/evil.flac",
        "LibriSpeech/train-clean-100/19/198/../../../19-198-0000.flac",
        "LibriSpeech/train-clean-100/19/198/20-198-0000.flac",
        "LibriSpeech/train-clean-100/1٣/198/1٣-198-0000.flac",
        "../LibriSpeech/train-clean-100/9/9/9-9-9.flac",
    ],
)
def test_no_member_of_an_archive_is_written_elsewhere(data, serve, tmp_path, evil):
    serve(archive({evil: b"out"}))
    data().prepare()
    assert found_in(tmp_path / "data") == ALL
    assert {path.name for path in tmp_path.iterdir()} == {"data", "cache"}


def test_a_link_in_an_archive_is_not_followed(data, serve, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo("LibriSpeech/train-clean-100/19/198/19-198-0000.flac")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret")
        tar.addfile(link)
    serve(buffer.getvalue())
    assert "no recordings in" in refusal(data())
    assert found_in(tmp_path / "data") == []


def test_a_broken_archive_is_named(data, serve):
    content = archive()
    serve(content[: len(content) // 2])
    line = refusal(data())
    assert "cannot unpack" in line
    assert "delete it and run `python -m gim_bench data prepare" in line


def test_an_interrupted_unpacking_is_told_and_carried_on(data, serve, tmp_path, monkeypatch):
    unpacked = []

    @contextmanager
    def interrupted(path):
        with atomically(path) as file:
            yield file
            if len(unpacked) == 5:
                raise KeyboardInterrupt
            unpacked.append(path)

    server = serve(archive())
    with monkeypatch.context() as patch:
        patch.setattr(files, "atomically", interrupted)
        with pytest.raises(KeyboardInterrupt):
            data().prepare()
    assert sorted(tmp_path.glob("data/*/*/*/*/*")) == sorted(unpacked)
    line = refusal(data(), LibriSpeech.fingerprint)
    assert "was interrupted: run `python -m gim_bench data prepare" in line
    before = {path: path.stat().st_mtime_ns for path in unpacked}
    data().prepare()
    assert len(server.asked) == 1  # the archive was still there
    assert {path: path.stat().st_mtime_ns for path in unpacked} == before
    assert found_in(tmp_path / "data") == ALL  # and is no longer


def test_a_disk_that_is_full_is_one_line(data, serve, monkeypatch):
    @contextmanager
    def full(path):
        raise OSError(28, "No space left on device", str(path))
        yield

    serve(archive())
    with monkeypatch.context() as patch:
        patch.setattr(files, "atomically", full)
        line = refusal(data())
    assert "No space left on device" in line
    assert "free 7 GB there" in line


# -- the real thing ------------------------------------------------------------------------------


@needs_sample
def test_real_recordings_are_decoded_to_the_sample(data):
    mine = data(SAMPLE)
    paths = sorted((SAMPLE / "LibriSpeech").rglob("*.flac"))
    expected = [soundfile.read(path, dtype="int16")[0].tolist() for path in paths]
    found = samples_of(mine.split(Split.TRAIN)) + samples_of(mine.split(Split.TEST))
    assert sorted(found) == sorted(expected)
    assert [len(target.classes) for target in mine.targets()] == [6]


@needs_sample
def test_real_labels_fit_without_a_gap(data, tmp_path):
    """One of the two labelled utterances is for testing; a copy lets its speaker be known."""
    root = tmp_path / "data" / "LibriSpeech" / "train-clean-100"
    shutil.copytree(SAMPLE / "LibriSpeech" / "train-clean-100", root)
    tested, copy = "2911-12359-0007", "2911-12359-0000"
    shutil.copy(path_of(root, tested), path_of(root, tested).with_name(f"{copy}.flac"))
    label(root, (SAMPLE / LABELS / "converted_aligned_phones.txt").read_text())
    names = {path.stem for path in root.rglob("*.flac")}
    divide(root, train=sorted(names - {tested}), test=[tested])
    mine = data()
    (test,) = frames_of(mine.split(Split.TEST), "phone")
    assert len(test) == 508
    assert min(test) >= 0
    train = frames_of(mine.split(Split.TRAIN), "phone")
    assert [len(labels) for labels in train if max(labels) >= 0] == [1119]
    assert all(min(labels) >= 0 for labels in train if max(labels) >= 0)
