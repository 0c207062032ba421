"""Finished tiny cells, of images and of speech, that the tests of this folder share."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from gim_bench import registry
from gim_bench.cells.bench import Bench
from gim_bench.cells.run import run_cell
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Record
from gim_bench.settings.schema import Suite
from tests.tiny_suite import (
    MISBEHAVING,
    SPEECH_TOML,
    noise_registered,
    tiny_bench,
    tiny_cell,
    tiny_suite,
)

# Some train on labelled data.
METHODS = ("gim", "cpc", "supervised", "random_init")
SPEECH_METHODS = ("gim", "supervised", "greedy_supervised", "random_init", "gim_no_ar", "mfcc")


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return tiny_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="session")
def bench(suite: Suite) -> Bench:
    return tiny_bench(suite)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> RunsFolder:
    """The folder of the shared records."""
    return RunsFolder(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def done(suite: Suite, bench: Bench, archive: RunsFolder) -> Mapping[str, Record]:
    """The finished records of four methods on images, by name."""
    return {name: run_cell(tiny_cell(suite, name), bench, runs=archive) for name in METHODS}


class Spoken(NamedTuple):
    """A suite of speech, its data on a device, and finished records by method."""

    suite: Suite
    bench: Bench
    records: Mapping[str, Record]


@pytest.fixture(scope="session")
def all_spoken(tmp_path_factory: pytest.TempPathFactory, archive: RunsFolder) -> Spoken:
    """The data set is registered while the cells run, and no longer."""
    with noise_registered():
        suite = tiny_suite(tmp_path_factory.mktemp("suite"), toml=SPEECH_TOML)
        bench = tiny_bench(suite)
        records = {
            name: run_cell(tiny_cell(suite, name), bench, runs=archive) for name in SPEECH_METHODS
        }
    return Spoken(suite, bench, records)


@pytest.fixture
def speech_suite(all_spoken: Spoken) -> Iterator[Suite]:
    """The suite of speech, whose data set is registered as long as the test runs."""
    with noise_registered():
        yield all_spoken.suite


@pytest.fixture
def speech_bench(all_spoken: Spoken) -> Bench:
    return all_spoken.bench


@pytest.fixture
def spoken(all_spoken: Spoken) -> Mapping[str, Record]:
    """The finished records of six methods on speech, by name."""
    return all_spoken.records


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that fail in one way or another are registered."""
    table = {**registry.methods(), **MISBEHAVING}
    monkeypatch.setattr(registry, "methods", lambda: table)
