"""A suite that runs from Python."""

import pytest
import torch

import gim_bench
from gim_bench.api.running import overrides_of
from gim_bench.cells.shares import share_out
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RunsFolder
from gim_bench.settings.suites import setting_value
from tests.tiny_suite import TOML, tiny_bench, tiny_cell, tiny_suite


@pytest.fixture
def suite(tmp_path):
    """The file of the tiny suite."""
    (tmp_path / "tiny.toml").write_text(TOML)
    return tmp_path / "tiny.toml"


def test_a_suite_runs_and_its_table_is_that_of_results(suite, tmp_path):
    lines = []
    table = gim_bench.run(suite, seeds=2, runs_dir=tmp_path / "runs", tell=lines.append)
    assert {(row.method, row.seed) for row in table.itertuples()} == {
        (method, seed) for method in ("gim", "random_init") for seed in (0, 1)
    }
    order = ["method", "seed", "metric", "module"]
    ours, theirs = (
        each.sort_values(order).reset_index(drop=True)
        for each in (table, gim_bench.results(tmp_path / "runs"))
    )
    assert ours.equals(theirs)
    assert lines[0] == "gim seed 0: done"
    assert len(lines) == 4


def test_finished_cells_are_not_run_again_unless_asked(suite, tmp_path):
    def finished_at(**options):
        gim_bench.run(
            suite, methods=["random_init"], seeds=1, runs_dir=tmp_path, tell=None, **options
        )
        (record,) = RunsFolder(tmp_path).records("tiny")
        return record.provenance["finished_at"], record.provenance["started_at"]

    first = finished_at()
    assert finished_at() == first
    path = next(tmp_path.glob("tiny/random_init/*/record.json"))
    before = path.stat().st_mtime_ns
    finished_at(rerun=True)
    assert path.stat().st_mtime_ns > before


def test_cores_are_shared_out_for_finished_cells_that_run_again(suite, tmp_path, monkeypatch):
    """Of no cells, cores are not shared out: one thread would train them."""
    shared = []

    def spy(waiting, **options):
        shared.append([cell.key for cell in waiting])
        return share_out(waiting, **options)

    monkeypatch.setattr("gim_bench.api.running.share_out", spy)
    for rerun in (False, False, True):
        gim_bench.run(
            suite, methods=["random_init"], seeds=1, runs_dir=tmp_path, rerun=rerun, tell=None
        )
    first, finished, again = shared
    assert (len(first), finished, again) == (1, [], first)


def test_cells_have_the_keys_of_the_command(suite, tmp_path):
    table = gim_bench.run(
        suite, methods=["gim"], seeds=1, settings={"training.epochs": 2}, runs_dir=tmp_path
    )
    same = tiny_suite(tmp_path, "training.epochs=2")
    sha256 = table.data_sha256.iloc[0]
    assert tiny_bench(same).dataset.fingerprint() == sha256
    assert set(table.key) == {tiny_cell(same, "gim", data_sha256=sha256).key}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"kernel": 3}, "{kernel = 3}"),
        ({}, "{}"),
        ({"a b": [{"c": True}, {}]}, '{"a b" = [{c = true}, {}]}'),
        ((0.1, 1e-30, -2), "[0.1, 1e-30, -2]"),
        (float("inf"), "inf"),
        ('"quoted" = \n\x7f🎲', r'"\"quoted\" = \n\u007f🎲"'),
        ("3", '"3"'),
    ],
)
def test_settings_are_those_that_set_reads(value, text):
    (override,) = overrides_of({"a.b": value})
    assert setting_value(override.removeprefix("a.b=")) == setting_value(text)
    assert type(setting_value(text)) is (list if isinstance(value, tuple) else type(value))


def test_a_setting_can_be_a_table(suite, tmp_path):
    blur = {"augmentation.blur": {"kernel": 3}}
    table = gim_bench.run(
        suite, methods=["random_init"], seeds=1, settings=blur, runs_dir=tmp_path, tell=None
    )
    same = tiny_suite(tmp_path, "augmentation.blur={kernel=3}")
    sha256 = table.data_sha256.iloc[0]
    assert set(table.key) == {tiny_cell(same, "random_init", data_sha256=sha256).key}


def test_the_threads_of_pytorch_are_left_as_they_were(suite, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gim_bench.run(suite, methods=["random_init"], seeds=1, runs_dir=tmp_path, tell=None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_cell_that_fails_is_a_row_and_a_line(suite, tmp_path, monkeypatch):
    from gim_bench.methods.gim import GreedyInfoMax

    def losses(self, batch):
        raise RuntimeError("the forward pass fell over")
        yield

    monkeypatch.setattr(GreedyInfoMax, "losses", losses)
    lines = []
    table = gim_bench.run(suite, seeds=1, runs_dir=tmp_path, tell=lines.append)
    assert dict(zip(table.method, table.status, strict=True)) == {
        "gim": "failed",
        "random_init": "done",
    }
    assert "gim seed 0: failed: " in lines[0]
    assert "the forward pass fell over" in lines[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["gmi"]}, "gmi"),
        ({"settings": {"training.epoch": 2}}, "epoch"),
        ({"methods": "gim"}, r"methods is 'gim': give a list of at least one name"),
        ({"methods": []}, r"methods is \[\]: give a list of at least one name"),
        ({"settings": {"training.workers": None}}, "settings: training.workers is None: give text"),
        ({"settings": {"probe": {"kind": [object]}}}, "settings: probe is .*: give text"),
        ({"seeds": 0}, "seeds is 0: at least one is run"),
        ({"data_dir": "images"}, "takes no --data-dir"),
        ({"settings": {"protocols.knn.probe.kind": "svm"}}, "no kind of probe 'svm'"),
    ],
)
def test_wrong_use_is_refused_before_a_cell_runs(options, message, suite, tmp_path):
    with pytest.raises(ConfigError, match=message):
        gim_bench.run(suite, runs_dir=tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": [1]}, r"methods is \[1\]: give a list of at least one name"),
        ({"methods": 1}, "methods is 1: give a list of at least one name"),
        ({"settings": ["training.epochs=2"]}, "settings is .*: give a dict of names and values"),
        ({"seeds": 1.5}, "seeds is 1.5: give the number of seeds"),
        ({"seeds": True}, "seeds is True: give the number of seeds"),
    ],
)
def test_arguments_of_other_types_are_refused_before_a_cell_runs(
    options, message, suite, tmp_path, types_unchecked
):
    with pytest.raises(ConfigError, match=message):
        gim_bench.run(suite, runs_dir=tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()
