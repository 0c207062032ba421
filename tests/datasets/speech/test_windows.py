"""Batches of speech, against loops over recordings and frames.

Samples say where they are: their value is their number within their recording, and with deviation
1/2¹⁵ and mean 0 that is what the inputs hold. Frames are labelled by their number within their
recording, so a window that begins with sample 160·s has label s + j - 1 at step j.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gim_bench import seeding
from gim_bench.contract import Recordings, label_frames
from gim_bench.datasets.speech.audio import FULL_SCALE
from gim_bench.datasets.speech.windows import WindowBatches, cut, normalise, tiles
from gim_bench.encoders.conv_gru import ConvGRUEncoder, ConvGRUSettings
from gim_bench.settings.augmentations import FRAME_SAMPLES, WindowSettings

CPU = torch.device("cpu")
WINDOW = 1_600
STEPS = 10
# None, too short for a label, one label, about a window, about two, and longer.
LENGTHS = (0, 1, 399, 400, 559, 560, 1599, 1600, 1601, 1839, 1840, 3199, 3200, 3440, 7777)


def numbered(*lengths: int, speakers: tuple[int, ...] | None = None) -> Recordings:
    """Recordings one after another whose samples and frames bear their numbers."""
    counts = np.array(lengths, dtype=np.int64)
    frames = [np.arange(label_frames(n), dtype=np.int16) for n in lengths]
    return Recordings(
        samples=np.concatenate([np.arange(n, dtype=np.int16) for n in lengths]),
        starts=counts.cumsum() - counts,
        lengths=counts,
        labels={} if speakers is None else {"speaker": np.array(speakers)},
        frames={"phone": np.concatenate(frames)},
    )


def batches(
    recordings: Recordings,
    *,
    samples: int = WINDOW,
    mean: float = 0.0,
    std: float = 1 / FULL_SCALE,
    batch_size: int = 4,
    stream: tuple[str, int] = ("noise", 0),
    views: int = 1,
    whole: bool = False,
) -> WindowBatches:
    return WindowBatches(
        recordings,
        augmentation=WindowSettings(kind="window", samples=samples, mean=mean, std=std),
        batch_size=batch_size,
        stream=stream,
        device=CPU,
        views=views,
        whole=whole,
    )


def in_order(loader: WindowBatches) -> tuple[list[list[int]], list[list[int]]]:
    """(samples, phones) of all windows in order."""
    found = list(loader.in_order())
    inputs = torch.cat([batch.inputs for batch in found]).round().long()
    return inputs.tolist(), torch.cat([batch.labels["phone"] for batch in found]).tolist()


# -- tiles ---------------------------------------------------------------------------------------


def counted_labels(length: int, *, window: int) -> list[int]:
    """How often the tiles of a recording count each of its labels."""
    times = [0] * label_frames(length)
    for frame, first in tiles(length, window=window):
        for step in range(window // FRAME_SAMPLES):
            label = frame + step - 1
            if first <= label and 0 <= label < len(times):
                times[label] += 1
    return times


@pytest.mark.parametrize("window", [160, 320, 480, 1600])
def test_tiles_count_every_label_of_a_recording_of_any_length_once(window):
    for length in range(6_000):
        assert set(counted_labels(length, window=window)) <= {1}, length


@given(length=st.integers(0, 400_000), steps=st.integers(1, 200))
@settings(max_examples=100)
def test_tiles_of_any_window_count_every_label_of_long_recordings_once(length, steps):
    assert set(counted_labels(length, window=steps * FRAME_SAMPLES)) <= {1}


@pytest.mark.parametrize("window", [160, 480, 1600])
def test_tiles_lie_within_a_recording_that_is_long_enough(window):
    for length in range(window, 6_000):
        begins = [frame * FRAME_SAMPLES for frame, _ in tiles(length, window=window)]
        assert begins == sorted(set(begins))
        assert begins[0] == 0
        assert begins[-1] <= length - window, length


def test_a_recording_no_longer_than_the_window_is_one_tile():
    for length in range(WINDOW + 1):
        assert list(tiles(length, window=WINDOW)) == [(0, -1)]


def test_tiles_leave_out_no_more_than_the_samples_after_the_last_label():
    """A label is about 25 ms of which 15 ms follow its own step: fewer than 240 samples."""
    for length in range(WINDOW, 6_000):
        reached = max(frame * FRAME_SAMPLES for frame, _ in tiles(length, window=WINDOW)) + WINDOW
        assert 0 <= length - reached < 240, length


def test_tiles_stand_end_to_end_but_for_the_last_which_is_moved_back():
    """20 and 25 steps of 10: the third window begins at 15 and counts what the others have not."""
    assert list(tiles(20 * 160, window=WINDOW)) == [(0, -1), (10, 9)]
    assert list(tiles(25 * 160, window=WINDOW)) == [(0, -1), (10, 9), (15, 19)]


# -- all of it, in order -------------------------------------------------------------------------


def slow_windows(length: int) -> tuple[list[list[int]], list[list[int]]]:
    """The windows of one numbered recording and their labels, sample by sample, step by step."""
    samples, phones = [], []
    for frame, first in tiles(length, window=WINDOW):
        places = range(frame * FRAME_SAMPLES, frame * FRAME_SAMPLES + WINDOW)
        samples.append([place if place < length else 0 for place in places])
        labels = [frame + step - 1 for step in range(STEPS)]
        theirs = [max(first, 0) <= label < label_frames(length) for label in labels]
        phones.append([label if yes else -1 for label, yes in zip(labels, theirs, strict=True)])
    return samples, phones


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_in_order_is_every_recording_cut_by_a_slow_loop(batch_size):
    loader = batches(numbered(*LENGTHS), batch_size=batch_size)
    samples, phones, recordings = [], [], []
    for recording, length in enumerate(LENGTHS):
        windows, labels = slow_windows(length)
        samples, phones = samples + windows, phones + labels
        recordings += [recording] * len(windows)
    assert in_order(loader) == (samples, phones)
    assert loader.groups.tolist() == recordings


def test_in_order_counts_every_frame_of_every_recording_once():
    """Frames numbered through all recordings."""
    recordings = numbered(*LENGTHS)
    through = np.arange(len(recordings.frames["phone"]), dtype=np.int16)
    recordings.frames["phone"][:] = through
    _, phones = in_order(batches(recordings))
    assert sorted(p for window in phones for p in window if p >= 0) == through.tolist()


def test_the_frame_of_a_step_is_the_one_whose_centre_lies_in_it():
    """Label t is about sample 160·t + 200; step j holds samples 160·j to 160·(j + 1)."""
    samples, phones = in_order(batches(numbered(7777)))
    for window, labels in zip(samples, phones, strict=True):
        for step, label in enumerate(labels):
            if label >= 0:
                own = range(window[160 * step], window[160 * step] + 160)
                assert 160 * label + 200 in own


def test_frames_without_a_label_stay_without():
    recordings = numbered(3200, 1600)
    recordings.frames["phone"][3:9] = -1
    _, phones = in_order(batches(recordings))
    found = [p for window in phones for p in window if p >= 0]
    assert found == [*range(3), *range(9, label_frames(3200)), *range(label_frames(1600))]


def test_a_short_recording_is_followed_by_silence_that_is_normalised_with_it():
    """Silence is 0 before the mean is taken off, and has no labels; the neighbour is not heard."""
    recordings = numbered(500, 5000)
    (batch, *_) = batches(recordings, mean=0.25, std=0.5).in_order()
    expected = (torch.arange(500) / FULL_SCALE - 0.25) / 0.5
    torch.testing.assert_close(batch.inputs[0, :500], expected)
    assert batch.inputs[0, 500:].tolist() == [-0.5] * 1100
    assert batch.labels["phone"][0].tolist() == [-1, 0, *[-1] * 8]


def test_an_empty_recording_is_a_window_of_silence_without_phones():
    samples, phones = in_order(batches(numbered(0, 1600)))
    assert (set(samples[0]), set(phones[0])) == ({0}, {-1})


def test_every_window_of_a_recording_has_its_speaker():
    recordings = numbered(1600, 4000, 100, speakers=(7, 3, 5))
    loader = batches(recordings, batch_size=2)
    assert loader.labels["speaker"].tolist() == [7, 3, 3, 3, 5]
    speakers = [batch.labels["speaker"].tolist() for batch in loader.in_order()]
    assert speakers == [[7, 3], [3, 3], [5]]


# -- whole recordings, in order --------------------------------------------------------------------


def test_whole_recordings_come_one_by_one_and_short_ones_are_followed_by_silence():
    """To the length of the window. Samples after the last whole step of 10 ms are left out."""
    found = list(batches(numbered(*LENGTHS), whole=True).in_order())
    for length, batch in zip(LENGTHS, found, strict=True):
        steps = max(STEPS, length // FRAME_SAMPLES)
        samples = [p if p < length else 0 for p in range(steps * FRAME_SAMPLES)]
        assert batch.inputs.round().long().tolist() == [samples]
        labels = list(range(label_frames(length)))
        phones = [-1, *labels, *[-1] * (steps - 1 - len(labels))]
        assert batch.labels["phone"].tolist() == [phones]


def test_the_last_label_of_a_whole_recording_of_any_length_has_a_step():
    for length in range(3_200, 3_600):
        (batch,) = batches(numbered(length), whole=True).in_order()
        assert batch.labels["phone"].max() == label_frames(length) - 1


def test_labels_of_whole_recordings_are_filled_up_to_the_longest():
    loader = batches(numbered(4000, 3200, 100, speakers=(7, 3, 5)), whole=True)
    for row, batch in zip(loader.labels["phone"], loader.in_order(), strict=True):
        (found,) = batch.labels["phone"]
        assert torch.equal(row[: len(found)], found)
        assert set(row[len(found) :].tolist()) <= {-1}
    assert loader.labels["phone"].shape == (3, 25)
    assert loader.labels["speaker"].tolist() == [7, 3, 5]
    assert loader.groups.tolist() == loader.items_of_examples.tolist() == [0, 1, 2]


def test_training_draws_the_same_windows_whether_the_probe_reads_whole_recordings_or_not():
    recordings = numbered(*range(2000, 8000, 301))
    for one, other in zip(
        batches(recordings).epoch(1), batches(recordings, whole=True).epoch(1), strict=True
    ):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels["phone"], other.labels["phone"])


@torch.no_grad()
def contexts(loader: WindowBatches) -> torch.Tensor:
    """Features of an untrained GRU at the steps of all windows in order."""
    with seeding.weights_from("tests", "encoder"):
        encoder = ConvGRUEncoder(
            ConvGRUSettings(kind="conv_gru", width=4, context=4), shape=(WINDOW,)
        )
    found = []
    for batch in loader.in_order():
        z = encoder.prepare(batch.inputs)
        for stage in encoder.stages:
            z = stage(z)
        grid = encoder.pool(z, batch_size=len(batch.inputs))
        found.append(encoder.steps(grid, module=len(encoder.stages) - 1).flatten(0, 1))
    return torch.cat(found)


def spoken(*lengths: int) -> Recordings:
    recordings = numbered(*lengths)
    recordings.samples[:] = np.random.default_rng(0).normal(0, 3_000, sum(lengths))
    return recordings


def test_the_contexts_of_a_recording_of_one_window_are_those_of_the_whole_recording():
    one, whole = (contexts(batches(spoken(WINDOW), std=0.1, whole=w)) for w in (False, True))
    assert torch.equal(one, whole)


def test_the_context_of_a_whole_recording_reaches_back_beyond_the_window():
    """The second window begins at step 10, where a GRU of windows has forgotten everything."""
    recordings = spoken(2 * WINDOW)
    windows = contexts(batches(recordings, std=0.1))
    whole = contexts(batches(recordings, std=0.1, whole=True))
    torch.testing.assert_close(whole[: STEPS - 1], windows[: STEPS - 1])
    assert (whole[STEPS] - windows[STEPS]).abs().max() > 0.01


# -- sources ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
def test_windows_belong_to_the_source_of_their_recording(whole):
    recordings = replace(numbered(1600, 3200, 1600), sources=np.array([5, 5, 2]))
    expected = [5, 5, 2] if whole else [5, 5, 5, 2]
    assert batches(recordings, whole=whole).groups.tolist() == expected


# -- at random -----------------------------------------------------------------------------------


def drawn(loader: WindowBatches, epoch: int) -> torch.Tensor:
    """Where the windows of an epoch begin within their recordings, in samples."""
    return torch.cat([batch.inputs[:, 0] for batch in loader.epoch(epoch)]).round().long()


def test_windows_begin_on_the_10_ms_grid_and_are_whole():
    loader = batches(numbered(*range(1600, 8000, 301)))
    for batch in loader.epoch(1):
        samples = batch.inputs.round().long()
        assert not (samples[:, 0] % FRAME_SAMPLES).any()
        assert torch.equal(samples, samples[:, :1] + torch.arange(WINDOW))


def test_labels_of_random_windows_are_those_of_their_place():
    """Against a loop; a window that begins with the recording has no label at its first step."""
    lengths = range(100, 8000, 301)
    loader = batches(numbered(*lengths, speakers=tuple(range(len(lengths)))), batch_size=9)
    for batch in (batch for epoch in range(1, 9) for batch in loader.epoch(epoch)):
        begins = batch.inputs[:, 0].round().long() // FRAME_SAMPLES
        for window, begin in enumerate(begins.tolist()):
            last = label_frames(lengths[batch.labels["speaker"][window]]) - 1
            labels = [begin + step - 1 for step in range(STEPS)]
            expected = [label if 0 <= label <= last else -1 for label in labels]
            assert batch.labels["phone"][window].tolist() == expected


@pytest.mark.parametrize("extra", [0, 159], ids=["just", "and a little more"])
def test_all_places_are_drawn_alike(extra):
    """Five places: the last one ends with the recording, or less than 10 ms before it."""
    loader = batches(numbered(*[WINDOW + 4 * FRAME_SAMPLES + extra] * 4000), batch_size=4000)
    counts = (drawn(loader, 1) // FRAME_SAMPLES).bincount()
    assert len(counts) == 5
    assert counts.double().numpy() == pytest.approx(800, rel=0.1)


@pytest.mark.parametrize("length", [0, 100, 1599, 1600, 1759])
def test_a_recording_with_no_room_to_move_is_drawn_from_its_beginning(length):
    loader = batches(numbered(*[length] * 8, 1600), batch_size=9)
    (batch,) = loader.epoch(1)
    assert (batch.inputs[:, 0] == 0).all()
    assert (batch.inputs.round().max(dim=1).values <= max(length, 1600)).all()


def test_windows_differ_between_epochs_and_within_a_batch():
    """Released code drew the same windows in every epoch."""
    loader = batches(numbered(*[8000] * 32), batch_size=32)
    first, second = drawn(loader, 1), drawn(loader, 2)
    assert len(set(first.tolist())) > 10
    assert not torch.equal(first, second)


def test_further_views_are_other_whole_windows_and_labels_are_those_of_view_1():
    lengths = range(2000, 8000, 301)
    recordings = numbered(*lengths, speakers=tuple(range(len(lengths))))
    (batch,) = batches(recordings, batch_size=len(lengths), views=3).epoch(1)
    begins = [view[:, 0].round().long() for view in batch.views]
    for view, begin in zip(batch.views, begins, strict=True):
        assert not (begin % FRAME_SAMPLES).any()
        assert torch.equal(view.round().long(), begin[:, None] + torch.arange(WINDOW))
    assert len({tuple(begin.tolist()) for begin in begins}) == 3
    assert torch.equal(batch.labels["phone"][:, 5], begins[0] // FRAME_SAMPLES + 4)


def test_the_same_data_set_and_seed_draw_the_same_windows_for_every_method():
    recordings = numbered(*[8000] * 32)
    first, again, seed, dataset = (
        drawn(batches(recordings, stream=stream), 3)
        for stream in [("noise", 0), ("noise", 0), ("noise", 1), ("espeak", 0)]
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, seed)
    assert not torch.equal(first, dataset)


def test_the_labels_of_a_split_do_not_move_its_windows():
    labelled = numbered(*[8000] * 32, speakers=(0,) * 32)
    unlabelled = Recordings(
        samples=labelled.samples,
        starts=labelled.starts,
        lengths=labelled.lengths,
        labels={},
        frames={},
    )
    assert torch.equal(drawn(batches(labelled), 1), drawn(batches(unlabelled), 1))


def test_unlabelled_recordings_come_without_labels():
    recordings = numbered(1600, 3200)
    unlabelled = Recordings(
        samples=recordings.samples,
        starts=recordings.starts,
        lengths=recordings.lengths,
        labels={},
        frames={},
    )
    loader = batches(unlabelled, batch_size=2)
    assert all(batch.labels == {} for batch in (*loader.epoch(1), *loader.in_order()))
    assert loader.labels == {}


# -- arrays --------------------------------------------------------------------------------------


def test_splits_may_share_one_memory_map_in_any_order(tmp_path):
    """Train and test take turns in one file; neither hears the other."""
    lengths = np.array([1600, 2000, 500, 4000])
    starts = lengths.cumsum() - lengths
    path = tmp_path / "samples.npy"
    np.save(path, np.repeat(np.array([1, 2, 3, 4], np.int16), lengths))
    samples = np.load(path, mmap_mode="r")
    for chosen in ([0, 2], [3, 1]):
        recordings = Recordings(
            samples=samples,
            starts=starts[chosen],
            lengths=lengths[chosen],
            labels={"speaker": np.array(chosen)},
            frames={},
        )
        loader = batches(recordings, batch_size=2)
        for batch in (*loader.epoch(1), *loader.in_order()):
            for inputs, recording in zip(batch.inputs, batch.labels["speaker"], strict=True):
                assert set(inputs.round().long().tolist()) - {0} == {int(recording) + 1}


def test_samples_are_cut_up_to_the_end_and_zero_from_there_on():
    samples = torch.arange(10, 20, dtype=torch.int16)
    found = cut(samples, torch.tensor([2, 8]), end=torch.tensor([4, 10]), size=4)
    assert found.tolist() == [[12, 13, 0, 0], [18, 19, 0, 0]]


def test_full_scale_is_1_before_the_mean_and_deviation_are_taken_off():
    settings_ = WindowSettings(kind="window", mean=0.25, std=0.5)
    samples = torch.tensor([[-(2**15), 0, 2**14]], dtype=torch.int16)
    assert normalise(samples, augmentation=settings_).tolist() == [[-2.5, -0.5, 0.5]]
