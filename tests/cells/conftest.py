"""Finished tiny cells, of images and of speech, that the tests of this folder share."""

from collections.abc import Iterator, Mapping

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


@pytest.fixture(scope="session")
def suite_of_noise(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """A suite of speech, whose data set is not registered."""
    return tiny_suite(tmp_path_factory.mktemp("suite"), toml=SPEECH_TOML)


@pytest.fixture
def speech_suite(suite_of_noise: Suite) -> Iterator[Suite]:
    """A suite of speech, whose data set is registered as long as the test runs."""
    with noise_registered():
        yield suite_of_noise


@pytest.fixture(scope="session")
def speech_bench(suite_of_noise: Suite) -> Bench:
    return tiny_bench(suite_of_noise)


@pytest.fixture(scope="session")
def spoken(suite_of_noise: Suite, speech_bench: Bench, archive: RunsFolder) -> Mapping[str, Record]:
    """The finished records of six methods on speech, by name."""
    with noise_registered():
        return {
            name: run_cell(tiny_cell(suite_of_noise, name), speech_bench, runs=archive)
            for name in SPEECH_METHODS
        }


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that fail in one way or another are registered."""
    table = {**registry.methods(), **MISBEHAVING}
    monkeypatch.setattr(registry, "methods", lambda: table)
