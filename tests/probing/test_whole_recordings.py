"""Probes of whole recordings, each as long as it is.

Samples are their numbers within their recording, and so are the labels of frames: step j begins
with sample 160·j and has label j - 1.
"""

import numpy as np
import pytest
import torch

from gim_bench.contract import Recordings, Target, label_frames
from gim_bench.datasets.speech import windows
from gim_bench.datasets.speech.audio import FULL_SCALE
from gim_bench.datasets.speech.windows import WindowBatches
from gim_bench.probing.questions import question
from gim_bench.probing.reading import Probe, Reader
from gim_bench.progress import Silence
from gim_bench.settings.augmentations import FRAME_SAMPLES, WindowSettings
from gim_bench.settings.base import Precision
from gim_bench.settings.probing import LogisticRegressionSettings
from tests.tiny_suite import Scripted

LENGTHS = (3_200, 1_700, 8_000, 500, 4_321)
PHONE = Target(name="phone", classes=[str(n) for n in range(60)], per_step=True)
SPEAKER = Target(name="speaker", classes=[str(n) for n in range(5)])


class FirstSamples(Scripted):
    """Its feature of a step is the step's first sample."""

    def features(self, inputs):
        return {"module_1": inputs[:, ::FRAME_SAMPLES, None]}


class InPieces(FirstSamples):
    """As `FirstSamples`, seven steps at a time."""

    def features_in_pieces(self, inputs):
        steps = self.features(inputs)["module_1"]
        for piece in steps.split(7, dim=1):
            yield {"module_1": piece}


class Rounded:
    """A classifier that reads the label off the first sample."""

    def predict(self, features):
        return (features[:, 0] / FRAME_SAMPLES).round().long() - 1


def loader():
    counts = np.array(LENGTHS)
    frames = [np.arange(label_frames(n), dtype=np.int16) for n in LENGTHS]
    recordings = Recordings(
        samples=np.concatenate([np.arange(n, dtype=np.int16) for n in LENGTHS]),
        starts=counts.cumsum() - counts,
        lengths=counts,
        labels={"speaker": np.arange(len(LENGTHS))},
        frames={"phone": np.concatenate(frames)},
    )
    return WindowBatches(
        recordings,
        augmentation=WindowSettings(kind="window", samples=1_600, mean=0.0, std=1 / FULL_SCALE),
        batch_size=4,
        stream=("noise", 0),
        device=torch.device("cpu"),
        whole=True,
    )


@pytest.fixture(params=[FirstSamples, InPieces])
def reader(request):
    """A reader of whole recordings, and a reader of their pieces: what they find is the same."""
    return Reader(request.param(), precision=Precision.FP32, title="reads", progress=Silence())


def test_features_of_whole_recordings_are_those_of_the_steps_with_labels(reader):
    train = loader()
    settings = LogisticRegressionSettings()
    asked = [question(train, target, settings=settings) for target in (PHONE, SPEAKER)]
    found = reader.features_of(train, asked)
    phones = found[asked[0], "module_1"][:, 0]
    assert phones.tolist() == (FRAME_SAMPLES * (asked[0].labels + 1)).tolist()
    assert len(phones) == sum(map(label_frames, LENGTHS))


def test_a_speaker_is_read_from_the_mean_over_the_recording_without_silence_behind(reader):
    train = loader()
    asked = question(train, SPEAKER, settings=LogisticRegressionSettings())
    (found,) = reader.features_of(train, [asked]).values()
    # The fourth recording is shorter than the window.
    means = [80.0 * (length // FRAME_SAMPLES - 1) for length in LENGTHS]
    means[3] = (160 + 320 + 480) / 10
    torch.testing.assert_close(found[:, 0], torch.tensor(means))


def test_every_label_of_a_whole_test_recording_counts_once(reader):
    probes = [Probe(PHONE, "module_1", "accuracy", Rounded())]
    predictions = reader.predictions(loader(), probes, [PHONE])
    assert predictions.labels["phone"].tolist() == [
        p for n in LENGTHS for p in range(label_frames(n))
    ]
    assert (predictions.predicted["phone_accuracy"] == predictions.labels["phone"]).all()
    owners = np.repeat(np.arange(len(LENGTHS)), [label_frames(n) for n in LENGTHS])
    assert (predictions.items["phone"] == owners).all()


def test_whole_recordings_are_normalised_a_part_at_a_time(monkeypatch):
    """Parts of 999 samples; the fourth recording is followed by silence."""
    whole = [batch.inputs for batch in loader().in_order()]
    monkeypatch.setattr(windows, "PART_SAMPLES", 999)
    in_parts = [batch.inputs for batch in loader().in_order()]
    assert all(torch.equal(a, b) for a, b in zip(whole, in_parts, strict=True))
    assert whole[3][0, 500:].tolist() == [0.0] * 1_100


class Speaker(FirstSamples):
    """Its head says which speaker has this mean, and refuses all but the features of an example."""

    def predict(self, features):
        (mean,) = features["module_1"].mean(dim=1, keepdim=True).unbind(2)
        return -(mean[..., None] - torch.tensor([1_520.0, 720.0, 3_920.0, 96.0, 2_000.0])).abs()


class SpeakerInPieces(Speaker, InPieces):
    pass


@pytest.mark.parametrize("learner", [Speaker, SpeakerInPieces])
def test_a_head_of_the_learner_reads_a_whole_recording_once(learner):
    found = Reader(learner(), precision=Precision.FP32, title="reads", progress=Silence())
    predictions = found.predictions(loader(), [], [SPEAKER])
    assert predictions.labels["speaker"].tolist() == [0, 1, 2, 3, 4]
    assert predictions.predicted["speaker_accuracy/own_head"].tolist() == [0, 1, 2, 3, 4]
