"""Cells on long recordings: what is trained, and what is refused."""

from pathlib import Path

import pytest

from gim_bench.cells.resolve import configs
from gim_bench.errors import ConfigError, DataError
from tests.cells.large_suites import (
    bench_of,
    cell_of,
    check_that_streaming_changes_no_number,
    finished,
    loader,
)
from tests.tiny_suite import CPU

# Four sentences of some three seconds, joined; windows of 0.2 s of their first four seconds.
TOML = """
name = "tiny-long"
summary = "A recording in a fraction of a second"
protocol = "for the tests alone"
methods = ["streamed", "windows", "whole", "tiled"]

[dataset]
name = "espeak"
speakers = 2
train_sentences = 2
test_sentences = 1
joined = true

[encoder]
kind = "conv_gru"
width = 4
context = 3
paddings = [0, 0, 0, 0, 0]

[augmentation]
kind = "stretch"
length = 64_000
samples = 3_200
windows = 8
mean = 0.0
std = 0.05

[info_nce]
prediction_steps = 2
skip_rows = 0
negatives = 4

[training]
epochs = 2
batch_size = 4
learning_rate = 1e-3

[probe]
penalties = [1.0]
fitted_steps = 100

[method.streamed]
like = "gim"
schedule = "sequential"
training = { kept_outputs = { precision = "fp32" } }

[method.windows]
like = "gim"
schedule = "sequential"

[method.whole]
like = "gim_no_ar"
gradient_flow = "end_to_end"
augmentation = { length = 16_000, samples = 16_000, windows = 1 }
training = { batch_size = 1 }

[method.tiled]
like = "gim_no_ar"
gradient_flow = "end_to_end"
recompute = "tiles"
augmentation = { length = 16_000, samples = 16_000, windows = 1 }
training = { batch_size = 1 }
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def long(tmp_path):
    return loader(tmp_path, TOML)


def test_streamed_outputs_train_to_the_losses_and_accuracies_of_windows(long, cache, runs):
    """The GRU on top among them; probes read the phone of every 10 ms, and the speaker."""
    names = ("loss/module_1", "loss/module_6", "phone_accuracy", "speaker_accuracy")
    # 12,799 time steps of module 1 in 13 chunks of 1,024, of 4 channels in fp32.
    kept = 13 * 1024 * 4 * 4
    check_that_streaming_changes_no_number(long(), cache, runs, metrics=names, kept_bytes=kept)


def test_tiles_train_to_the_loss_of_the_whole_stretch(long, cache, runs):
    whole, tiled = (finished(long(), cache, runs, m) for m in ("whole", "tiled"))
    assert tiled.metrics["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-5)


def test_fewer_labelled_recordings_than_a_batch_of_windows_are_enough(long, cache):
    """Four train recordings, of which no batch is trained on."""
    suite = long("training.batch_size=8")
    bench_of(suite, cache).check(cell_of(suite, "streamed").config)
    supervised = configs(suite, methods=["supervised"], device=CPU)["supervised"]
    with pytest.raises(DataError, match="espeak has 4 train recordings, fewer than one batch of 8"):
        bench_of(suite, cache).check(supervised)


def checked(long, cache, overrides):
    suite = long(*overrides)
    bench_of(suite, cache).check(cell_of(suite, "streamed").config)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["augmentation.length=99_200_000"], "a stretch of 99,200,000 samples does not fit into"),
        (["augmentation.length=1600"], "a window of 3200 samples does not fit into a stretch"),
        (["training.held_out=0.5"], "windows of long recordings come in one view, and no window"),
        (
            ["dataset.joined=false"],
            r"into unlabelled recording \d+ of espeak, which has [0-9,]* sam",
        ),
        (
            ["method.streamed.training={kept_outputs={epochs=2}}"],
            "outputs over whole images and recordings serve all epochs: leave it out",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(long, cache, overrides, match):
    with pytest.raises((ConfigError, DataError), match=match) as caught:
        checked(long, cache, overrides)
    assert "\n" not in str(caught.value)
