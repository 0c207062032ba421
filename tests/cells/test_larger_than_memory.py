"""Cells on large images: what is trained and refused, and the limit of a process's memory."""

import errno
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from gim_bench.cells import estimate as estimates
from gim_bench.cells.bench import Bench
from gim_bench.cells.estimate import Estimate, estimate
from gim_bench.cells.fresh_process import run_apart
from gim_bench.cells.run import run_cell
from gim_bench.contract import Split
from gim_bench.datasets.images.random_images import RandomImages
from gim_bench.errors import ConfigError, DataError
from gim_bench.hardware import memory
from gim_bench.progress import Silence
from gim_bench.records.record import Status
from gim_bench.training.kept_outputs import Ledger
from gim_bench.training.trainer import Trainer
from tests.cells.large_suites import (
    bench_of,
    cell_of,
    check_that_streaming_changes_no_number,
    finished,
    loader,
)
from tests.tiny_suite import CPU

# Mosaics of 64 squares of 32 pixels; windows of 64 pixels.
TOML = """
name = "tiny-large"
summary = "Mosaics in a fraction of a second"
protocol = "for the tests alone"
methods = ["streamed", "windows", "whole", "tiled"]
fresh_process = true

[dataset]
name = "mosaics"
side = 256
labelled_side = 256
place = 32

[encoder]
kind = "pyramid"
width = 4
kernels = [4, 3]
strides = [2, 2]

[augmentation]
kind = "region"
side = 256
window = 64
windows = 8
mean = [0.45]
std = [0.25]

[info_nce]
prediction_steps = 2
negatives = 4

[training]
epochs = 2
batch_size = 4
learning_rate = 1e-3

[probe]
penalties = [1e-2, 1.0]
neighbours = 3

[method.streamed]
like = "gim"
schedule = "sequential"
training = { kept_outputs = { precision = "fp32" } }

[method.windows]
like = "gim"
schedule = "sequential"

[method.whole]
like = "gim"
gradient_flow = "end_to_end"
augmentation = { window = 256, windows = 1 }
training = { batch_size = 1 }

[method.tiled]
like = "gim"
gradient_flow = "end_to_end"
recompute = "tiles"
augmentation = { window = 256, windows = 1 }
training = { batch_size = 1 }
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def large(tmp_path):
    return loader(tmp_path, TOML)


def test_streamed_outputs_train_to_the_losses_and_accuracies_of_windows(large, cache, runs):
    names = ("loss/module_1", "loss/module_2", "accuracy")
    # 127 rows of module 1 in chunks of 64: 2×2 chunks of 4 channels in fp32.
    kept = 4 * 4 * 64**2 * 4
    check_that_streaming_changes_no_number(large(), cache, runs, metrics=names, kept_bytes=kept)


def test_an_estimate_counts_the_streaming_of_outputs_and_the_steps_of_all_stages(
    large, cache, monkeypatch
):
    """Made-up times: 1 and 2 s for a step of each module, and 0.5 s for one of 2×2 chunks.

    Each follows one that warms up; of three chunks the median counts. Two epochs of 8 windows in
    batches of 4 are 4 steps a module.
    """
    lasted = iter([9.0, 1.0, 9.0, 2.0, 9.0, 0.5, 4.0, 0.25])
    monkeypatch.setattr(estimates, "timed", lambda device: nullcontext([next(lasted, 0.0)]))
    step, given = Trainer.step, []
    monkeypatch.setattr(
        Trainer,
        "step",
        lambda *a, only: given.append((only, a[1].encoded_by)) or step(*a, only=only),
    )
    found = estimate(cell_of(large(), "streamed"), bench_of(large(), cache))
    assert found.train_seconds == 4 * (1.0 + 2.0) + 4 * 0.5
    assert found.steps == 2 * 4
    assert given == [("module_1", None)] * 2 + [("module_2", "module_1")] * 2


def test_a_disk_that_fills_up_while_streaming_is_one_line_and_the_next_run_resumes(
    large, cache, runs, monkeypatch
):
    undisturbed = finished(large(), cache, runs, "streamed")
    runs.remove(undisturbed)
    write, written = Ledger.write, []

    def full(ledger, values):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(values)
        write(ledger, values)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", full)
        failed = run_cell(cell_of(large(), "streamed"), bench_of(large(), cache), runs=runs)
    assert failed.status is Status.FAILED
    assert failed.error == "cannot be written: [Errno 28] No space left on device"
    resumed = finished(large(), cache, runs, "streamed")
    assert resumed.provenance["resumed_at_step"] == [4]
    assert resumed.losses == undisturbed.losses


def test_a_tile_that_is_damaged_in_training_is_one_line_and_the_next_run_resumes(
    large, cache, runs, monkeypatch
):
    undisturbed = finished(large(), cache, runs, "streamed")
    runs.remove(undisturbed)
    (mosaic,) = cache.glob(f"mosaics/*-{Split.UNLABELLED}.tif")
    content, write = mosaic.read_bytes(), Ledger.write

    def damaging(ledger, values):
        """Half of the tiles are gone once the first outputs are written."""
        write(ledger, values)
        mosaic.write_bytes(content[: len(content) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", damaging)
        failed = run_cell(cell_of(large(), "streamed"), bench_of(large(), cache), runs=runs)
    assert failed.status is Status.FAILED
    damaged = rf"cannot read {mosaic} by windows: segment \d+ of 64 cannot be decoded"
    assert re.match(damaged, str(failed.error))
    assert "\n" not in str(failed.error)
    mosaic.write_bytes(content)
    resumed = finished(large(), cache, runs, "streamed")
    assert resumed.provenance["resumed_at_step"] == [4]
    assert resumed.losses == undisturbed.losses


def test_tiles_train_to_the_loss_of_the_whole(large, cache, runs):
    whole, tiled = (finished(large(), cache, runs, m) for m in ("whole", "tiled"))
    assert tiled.metrics["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-5)


def checked(large, cache, overrides):
    suite = large(*overrides)
    bench_of(suite, cache).check(cell_of(suite, "streamed").config)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["augmentation.side=512"], "does not fit into unlabelled image 1 of mosaics, 256×256"),
        (["augmentation.window=300"], "a window of 300 pixels does not fit into a region of 256"),
        (["training.held_out=0.5"], "no window is held out"),
        (["encoder.kernels=[30, 3]"], "places of 32 pixels are too small for the encoder pyramid"),
        (
            ["method.streamed.training={kept_outputs={epochs=2}}"],
            "outputs over whole images and recordings serve all epochs: leave it out",
        ),
        (
            ["encoder={kind='resnet', blocks=[1], patch_size=8, patch_overlap=4}"],
            "use the encoder pyramid for images and conv_gru for speech",
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(large, cache, overrides, match):
    with pytest.raises((ConfigError, DataError), match=match) as caught:
        checked(large, cache, overrides)
    assert "\n" not in str(caught.value)


def test_small_images_are_not_read_by_windows(large):
    small = RandomImages(options=RandomImages.Options(images=8), data_dir=None)
    bench = Bench(small, device=CPU, progress=Silence())
    config = cell_of(large(), "streamed").config
    with pytest.raises(DataError, match=r"has no large images.*augmentation\.kind=crop$"):
        bench.check(config)


# -- memory ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_cell_beyond_the_limit_does_not_fit_and_nothing_is_lost(large, cache, runs):
    """A whole region of 2,048 pixels, and a limit of 40 MB over an idle process."""
    suite = large(
        "dataset.side=2048",
        "method.whole.augmentation={side=2048, window=2048, windows=1}",
        "encoder.width=32",
    )
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as idle:
        held = idle.submit(memory.held_bytes).result()  # this process holds what earlier tests left
    assert held
    bench = bench_of(suite, cache, memory_limit=held + 40 * 10**6)
    record = run_apart(cell_of(suite, "whole"), bench, runs=runs)
    assert (record.status, record.fits) == (Status.FAILED, False)
    assert str(record.error).startswith("does not fit: ")
    assert record.provenance["memory_limit_bytes"] == bench.memory_limit


def test_whole_regions_are_estimated_from_smaller_ones_in_proportion(large, cache, monkeypatch):
    """Memory grows by the same bytes with every pixel, and so do seconds."""
    monkeypatch.setattr(estimates, "SMALL", {"region": (64, 128)})
    monkeypatch.setattr(memory, "return_freed_blocks", lambda: None)  # for all later tests
    asked = []

    def timed(cell, _bench):
        side = cell.config.augmentation.side
        asked.append((side, cell.config.augmentation.window))
        over = 1000 + 10 * side**2
        return Estimate(
            steps=2,
            train_seconds=side**2 / 2**14,
            probe_seconds=0.0,
            peak_bytes=5000 + over,
            over_bytes=over,
            held_bytes=2 * over,
        )

    monkeypatch.setattr(estimates, "_timed_and_multiplied", timed)
    suite = large()
    found = estimate(cell_of(suite, "whole"), bench_of(suite, cache))
    assert asked == [(64, 64), (64, 64), (128, 128)]
    assert found.over_bytes == 1000 + 10 * 256**2
    assert found.held_bytes == 2 * found.over_bytes
    assert found.peak_bytes == 5000 + found.over_bytes
    assert found.train_seconds == pytest.approx(4.0)


def test_the_peak_of_a_gpu_grows_with_what_the_gpu_holds(large, cache, monkeypatch):
    """The host's memory says nothing of it."""
    monkeypatch.setattr(estimates, "SMALL", {"region": (64, 128)})
    monkeypatch.setattr(memory, "return_freed_blocks", lambda: None)

    def timed(cell, _bench):
        side = cell.config.augmentation.side
        return Estimate(
            steps=2, train_seconds=1.0, probe_seconds=0.0, peak_bytes=3000 + 40 * side**2
        )

    monkeypatch.setattr(estimates, "_timed_and_multiplied", timed)
    suite = large()
    bench = bench_of(suite, cache)
    bench.device = torch.device("cuda")
    assert estimate(cell_of(suite, "whole"), bench).peak_bytes == 3000 + 40 * 256**2


def test_an_estimate_fits_where_what_is_held_is_within_the_limit():
    found = Estimate(
        steps=1, train_seconds=0, probe_seconds=0, peak_bytes=None, over_bytes=500, held_bytes=1500
    )
    assert found.fits(1500)
    assert not found.fits(1499)


def test_memory_that_a_process_writes_to_is_held():
    before = memory.held_bytes()
    ballast = torch.ones(50 * 2**20, dtype=torch.uint8)
    assert memory.held_bytes() - before >= len(ballast)


def test_memory_that_is_never_written_to_counts_as_held():
    before = memory.held_bytes()
    with memory.held_peak() as peak:
        ballast = torch.empty(50 * 2**20, dtype=torch.uint8)
    assert len(ballast) <= peak.bytes - before <= 2 * len(ballast)
