"""Suites on examples that are larger than memory, for the tests: their cells, data and records."""

import pytest

from gim_bench.cells.bench import Bench
from gim_bench.cells.resolve import cells, configs, dataset_of
from gim_bench.cells.run import run_cell
from gim_bench.progress import Silence
from gim_bench.records.record import Status
from gim_bench.settings.suites import load_suite
from tests.tiny_suite import CPU


def loader(folder, toml):
    """A function that loads the suite, with other values of some settings."""
    path = folder / "suite.toml"
    path.write_text(toml)

    def load(*overrides):
        return load_suite(str(path), overrides=overrides)

    return load


def bench_of(suite, cache, **settings):
    kind, options = dataset_of(suite)
    dataset = kind(options=options, data_dir=None, cache_dir=cache)
    return Bench(dataset, device=CPU, progress=Silence(), **settings)


def cell_of(suite, method):
    found = configs(suite, methods=[method], device=CPU)
    (cell,) = cells(suite, found, seeds=[0], data_sha256="0" * 64)
    return cell


def finished(suite, cache, runs, method):
    record = run_cell(cell_of(suite, method), bench_of(suite, cache), runs=runs)
    assert record.status is Status.DONE, record.error
    return record


def check_that_streaming_changes_no_number(suite, cache, runs, *, metrics, kept_bytes):
    """The rows `streamed`, of whose outputs so many bytes are kept, and `windows`."""
    streamed, windows = (finished(suite, cache, runs, m) for m in ("streamed", "windows"))
    for name in metrics:
        assert streamed.metrics[name] == pytest.approx(windows.metrics[name], abs=1e-4)
    assert streamed.metrics["train/kept_bytes"] == kept_bytes
    assert "train/kept_bytes" not in windows.metrics
    assert not list(runs.folder_of(streamed).glob("*kept-outputs*"))
