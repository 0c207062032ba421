"""Batches of speech: windows of recordings, cut out and normalised as one batch on the device.

Letters: n = recordings of a split, w = windows, b = windows of a batch; step = one of a window's
10 ms steps.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int16
from torch import Tensor

from gim_bench.contract import FIRST_LABEL, UNLABELLED, Batch, Recordings, label_frames
from gim_bench.datasets.batches import Batches, BatchOptions, ViewStreams, resident, shared
from gim_bench.datasets.speech.audio import FULL_SCALE
from gim_bench.hardware import process_group
from gim_bench.hardware.transfers import moved
from gim_bench.settings.augmentations import FRAME_SAMPLES, SpeechSettings

PART_SAMPLES = 2**20  # of a whole recording, normalised together


class Windows(NamedTuple):
    """Windows of recordings, each beginning on the 10 ms grid of its recording."""

    recordings: Int[Tensor, "w"]
    frames: Int[Tensor, "w"]  # their beginnings, in units of 10 ms
    counted: Int[Tensor, "w"]  # the first frame label that counts; an earlier window has the others


class WindowBatches(Batches):
    """In training, a window at a random place of each recording; for the probe, all windows.

    For the probe a recording is cut into windows end to end. The last window ends with the
    recording and counts only the frames that the window before does not cover. A recording shorter
    than the window is followed by silence, whose frames have no labels. Further views are other
    windows of the same recordings.

    With `whole`, the probe has one window for each recording, as long as the recording but no
    shorter than the window: so an autoregressor's context reaches back to the recording's
    beginning. Each is a batch, and `labels` is filled with -1 up to the longest recording.
    """

    noun = "window"
    noun_of_items = "recording"

    def __init__(
        self,
        recordings: Recordings,
        *,
        augmentation: SpeechSettings,
        whole: bool = False,
        **options: Unpack[BatchOptions],
    ) -> None:
        super().__init__(**options)
        self.augmentation = augmentation
        self.steps = augmentation.samples // FRAME_SAMPLES
        self._samples = resident(shared(recordings.samples), device=self.device)
        self._sources = recordings.sources
        self._starts = torch.from_numpy(recordings.starts)
        self._lengths = torch.from_numpy(recordings.lengths)
        self._of_recording = {name: shared(found) for name, found in recordings.labels.items()}
        self._of_frame = {name: shared(found) for name, found in recordings.frames.items()}
        counts = [label_frames(int(length)) for length in recordings.lengths]
        self._frame_counts = torch.tensor(counts, dtype=torch.long)
        self._frame_starts = self._frame_counts.cumsum(0) - self._frame_counts
        self.whole = whole

    @property
    def items(self) -> int:
        return len(self._starts)

    @cached_property
    def labels(self) -> Mapping[str, Int[Tensor, "w *step"]]:
        return self._labels(self._tiles, steps=int(self._steps_in_order.max()))

    @property
    def sources(self) -> Int[Tensor, "n"]:
        return super().sources if self._sources is None else shared(self._sources)

    @property
    def items_of_examples(self) -> Int[Tensor, "w"]:
        return self._tiles.recordings

    def in_order(self) -> Iterator[Batch]:
        size = 1 if self.whole else self.batch_size
        for chosen in torch.arange(len(self._tiles.frames)).split(size):
            windows = Windows(*(values[chosen] for values in self._tiles))
            yield self._batch([windows], steps=int(self._steps_in_order[chosen].max()))

    @property
    def samples_in_order(self) -> Sequence[int]:
        """Samples of each window of `in_order`."""
        return (self._steps_in_order * FRAME_SAMPLES).tolist()

    @cached_property
    def _steps_in_order(self) -> Int[Tensor, "w"]:
        """The number of steps of each window of `in_order`."""
        if not self.whole:
            return torch.full_like(self._tiles.frames, self.steps)
        return (self._lengths // FRAME_SAMPLES).clamp(min=self.steps)

    def _augmented(self, chosen: Int[Tensor, "b"], streams: Sequence[ViewStreams]) -> Batch:
        windows = [self._random_windows(chosen, view.place) for view in streams]
        return self._batch(windows, steps=self.steps)

    def _random_windows(self, chosen: Int[Tensor, "b"], draw: torch.Generator) -> Windows:
        places = (self._lengths[chosen] - self.augmentation.samples) // FRAME_SAMPLES + 1
        fraction = torch.rand(len(chosen), generator=draw, dtype=torch.float64)
        frames = (fraction * places.clamp(min=1)).long()
        own = process_group.own(len(chosen))
        return Windows(chosen[own], frames[own], frames[own] + FIRST_LABEL)

    @cached_property
    def _tiles(self) -> Windows:
        """All windows of all recordings, end to end; or a window for each whole recording."""
        if self.whole:
            beginnings = torch.zeros(self.items, dtype=torch.long)
            return Windows(torch.arange(self.items), beginnings, beginnings + FIRST_LABEL)
        found = [
            (recording, frame, counted)
            for recording, length in enumerate(self._lengths.tolist())
            for frame, counted in tiles(length, window=self.augmentation.samples)
        ]
        return Windows(*torch.tensor(found, dtype=torch.long).reshape(-1, 3).unbind(1))

    def _batch(self, views: Sequence[Windows], *, steps: int) -> Batch:
        """A batch of the windows of each view; labels of steps are those of view 1."""
        inputs, *further = (self._inputs(windows, steps=steps) for windows in views)
        found = self._labels(views[0], steps=steps)
        labels = {name: moved(of_windows, device=self.device) for name, of_windows in found.items()}
        return Batch(inputs=inputs, labels=labels, further=tuple(further))

    def _inputs(self, windows: Windows, *, steps: int) -> Float[Tensor, "b sample"]:
        to = self._samples.device
        begin = self._starts[windows.recordings] + windows.frames * FRAME_SAMPLES
        end = self._starts[windows.recordings] + self._lengths[windows.recordings]
        if self.whole and len(begin) == 1:
            return self._whole(int(begin), end=int(end), size=steps * FRAME_SAMPLES)
        samples = cut(
            self._samples,
            moved(begin, device=to),
            end=moved(end, device=to),
            size=steps * FRAME_SAMPLES,
        )
        return normalise(moved(samples, device=self.device), augmentation=self.augmentation)

    def _whole(self, begin: int, *, end: int, size: int) -> Float[Tensor, "1 sample"]:
        """As `cut`, of one recording, a part at a time: no more than its samples fills memory."""
        found = torch.empty(1, size, device=self.device)
        for first in range(0, size, PART_SAMPLES):
            count = min(PART_SAMPLES, size - first)
            part = self._samples[begin + first : min(end, begin + first + count)]
            filled_up = F.pad(part, (0, count - len(part)))[None]
            samples = moved(filled_up, device=self.device)
            normalised = normalise(samples, augmentation=self.augmentation)
            found[:, first : first + PART_SAMPLES] = normalised
        return found

    def _labels(self, windows: Windows, *, steps: int) -> dict[str, Int[Tensor, "w *step"]]:
        whole = {name: found[windows.recordings] for name, found in self._of_recording.items()}
        # The frame label of every step, counted within its recording.
        frame = windows.frames[:, None] + torch.arange(steps) + FIRST_LABEL
        known = (
            (frame >= windows.counted[:, None].clamp(min=0))
            & (frame < self._frame_counts[windows.recordings, None])
        )  # fmt: skip
        place = torch.where(known, self._frame_starts[windows.recordings, None] + frame, 0)
        stepwise = {
            name: torch.where(known, found[place].long(), UNLABELLED) if len(found)
            else torch.full_like(frame, UNLABELLED)
            for name, found in self._of_frame.items()
        }  # fmt: skip
        return whole | stepwise


def tiles(length: int, *, window: int) -> Iterator[tuple[int, int]]:
    """Windows of `window` samples that cover a recording of `length` samples, end to end.

    Yields (beginning, first frame label that counts) of each window, in frames of 10 ms. The last
    window is moved back to end with the recording, and counts only the labels that it adds.
    """
    steps = window // FRAME_SAMPLES
    whole = max(1, length // window)
    for tile in range(whole):
        yield tile * steps, tile * steps + FIRST_LABEL
    reached = whole * steps + FIRST_LABEL
    if label_frames(length) > reached and length > window:
        yield (length - window) // FRAME_SAMPLES, reached


def cut(
    samples: Int16[Tensor, "sample"],
    begin: Int[Tensor, "b"],
    *,
    end: Int[Tensor, "b"],
    size: int,
) -> Int16[Tensor, "b size"]:
    """`size` samples from each `begin`; zeros from `end` on."""
    places = begin[:, None] + torch.arange(size, device=samples.device)
    inside = places < end[:, None]
    return samples[torch.where(inside, places, 0)] * inside


def normalise(
    samples: Int16[Tensor, "b size"], *, augmentation: SpeechSettings
) -> Float[Tensor, "b size"]:
    """Samples in -1..1 with the suite's mean 0 and standard deviation 1."""
    return (samples.float() / FULL_SCALE - augmentation.mean) / augmentation.std
