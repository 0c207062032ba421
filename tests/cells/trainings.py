"""Whole trainings of tiny cells."""

from safetensors.torch import load_file

from gim_bench.cells.run import run_cell
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from tests.cells.tiny_cells import same
from tests.tiny_suite import SPEECH_TOML, TOML, tiny_bench, tiny_cell, tiny_suite

# Three modules, a rate that changes with every step, and losses of held-out examples: three epochs
# of two steps.
IMAGES = (
    "encoder.blocks=[1, 1, 1]",
    "training.epochs=3",
    "training.batch_size=10",
    "training.held_out=0.5",
    "training.rate_schedule={kind='cosine', warmup_epochs=1}",
)
SPEECH = ("training.epochs=2",)


def suite_in(folder, *overrides, speech=False):
    folder.mkdir(exist_ok=True)
    shared = SPEECH if speech else IMAGES
    return tiny_suite(folder, *shared, *overrides, toml=SPEECH_TOML if speech else TOML)


def trained_in(folder, *overrides, speech=False, method="gim", **settings):
    """The record and the weights of a cell of the suite with these overrides."""
    suite = suite_in(folder, *overrides, speech=speech)
    bench, runs = tiny_bench(suite), RunsFolder(folder / "runs")
    for name, value in settings.items():
        setattr(bench, name, value)
    record = run_cell(tiny_cell(suite, method), bench, runs=runs)
    assert record.status is Status.DONE, record.error
    return record, load_file(runs.folder_of(record) / "encoder.safetensors")


def assert_equal(pipelined, interleaved):
    """To the bit: losses, weights, and every number of a probe."""
    (ours, weights), (theirs, others) = pipelined, interleaved
    assert ours.losses == theirs.losses
    assert all(same(weights, others))
    assert ours.probe_curves == theirs.probe_curves
    timeless = {n for n in theirs.metrics if "accuracy" in n or "loss" in n or "operations" in n}
    assert len(timeless) > 10
    assert {n: ours.metrics[n] for n in timeless} == {n: theirs.metrics[n] for n in timeless}
    assert ours.isolation == theirs.isolation
