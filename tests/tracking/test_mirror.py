"""Records are mirrored once, summarised and synced, by whoever imports the package."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gim_bench.errors import TrackingError
from gim_bench.records.record import Status
from gim_bench.tracking import Tracker, mirror_cell, mirror_sweeps, summarise, sync
from tests.listener import Listener
from tests.tracking.records import SWEPT, cell

ROOT = Path(__file__).resolve().parents[2]


class Store:
    """Takes MLflow's place: keeps the names of what is put. It fails while `broken` is set."""

    def __init__(self, monkeypatch):
        self.broken, self.put, self.held = False, [], {}
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(Tracker, "put", lambda _, suite, entry: self._put(suite, entry))

    def _put(self, suite, entry):
        if self.broken:
            raise TrackingError("it went away")
        self.put.append(entry.name)
        identity = (suite, *entry.identity.values())
        is_new = self.held.get(identity) != entry.digest()
        self.held[identity] = entry.digest()
        return is_new


@pytest.fixture
def store(monkeypatch):
    return Store(monkeypatch)


@pytest.fixture
def during(runs, tmp_path):
    """What a run mirrors with."""
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}")
    return {"runs": runs, "tracker": tracker, "progress": Listener()}


# -- during a run ----------------------------------------------------------------------------------


# case 27
def test_the_store_is_asked_each_time(runs, store, during):
    """A server may have been emptied, or a run deleted in its page."""
    runs.save(cell())
    mirror_cell(cell(), **during)
    mirror_cell(cell(), **during)
    assert store.put == ["gim seed 0"] * 2


def test_a_store_that_fails_costs_one_line_and_is_given_up(runs, store, during):
    store.broken = True
    for record in (cell(), cell(seed=1)):
        runs.save(record)
        mirror_cell(record, **during)
    store.broken = False
    mirror_sweeps(cell(sweeps={"module_2": SWEPT}), **during)
    summarise("quickstart", **during)
    assert store.put == []
    later = f"sync --runs-dir {runs.root} --tracking-uri {during['tracker'].uri}"
    (line,) = during["progress"].lines
    assert line == (
        f"not mirrored: it went away; this run mirrors nothing more; later run python -m gim_bench "
        f"{later}"
    )


# case 30
def test_artifacts_out_of_reach_are_one_line(runs, store, during):
    def put(tracker, *_):
        tracker.artifacts_away = "OSError: no such disk"

    store.monkeypatch.setattr(Tracker, "put", put)
    for record in (cell(), cell(seed=1)):
        mirror_cell(record, **during)
    (line,) = during["progress"].lines
    assert line.startswith(
        "mirrored without artifacts, which are out of reach (OSError: no such disk); later run "
    )
    assert sync("quickstart", runs=runs, tracker=during["tracker"]).artifacts_away


def test_a_cell_that_a_store_missed_is_mirrored_by_the_next_tracker(runs, store, during):
    runs.save(cell())
    store.broken = True
    mirror_cell(cell(), **during)
    store.broken = False
    mirror_cell(cell(), **during | {"tracker": Tracker(during["tracker"].uri)})
    assert store.put == ["gim seed 0"]


def test_a_cell_that_another_process_has_run_again_is_mirrored_as_it_is_now(
    runs, during, monkeypatch
):
    """A command mirrors records that it read when it began."""
    values = []
    monkeypatch.setattr(
        Tracker, "put", lambda _, suite, entry: values.append(entry.points[0].value)
    )
    old = cell(sweeps={"module_2": SWEPT})
    mirror_cell(old, **during)
    for now in (Status.DONE, Status.RUNNING):
        runs.save(cell(accuracy=61.0, status=now))
        mirror_cell(old, **during)
        mirror_sweeps(old, **during)
    best = SWEPT["best"]["learning_rate"]
    assert values == [60.0, 61.0, 60.0, best]  # the last two beside a cell that is running


def test_a_summary_covers_all_seeds_and_names_the_runs_folder(runs, store, during, monkeypatch):
    entries = []
    monkeypatch.setattr(Tracker, "put", lambda _, suite, entry: entries.append(entry))
    for seed in (0, 1):
        runs.save(cell(seed=seed))
    summarise("quickstart", **during)
    (entry,) = entries
    assert entry.name == "gim summary, n=2"
    assert entry.place.endswith(f":{runs.root.resolve()}")
    assert len(entry.records) == 2


# -- sync ------------------------------------------------------------------------------------------


def test_sync_returns_the_new_runs_and_the_second_time_none(runs, store):
    runs.save(cell())
    runs.save(cell("cpc", status=Status.FAILED))
    everything = ["cpc seed 0", "gim seed 0", "gim summary, n=1"]
    announced = []
    first = sync("quickstart", runs=runs, tracker=Tracker(), announce=announced.append)
    assert [entry.name for entry in first.new] == everything
    assert announced == first.new
    second = sync("quickstart", runs=runs, tracker=Tracker(), announce=announced.append)
    assert second.new == []
    assert [entry.name for entry in second.unchanged] == everything
    assert len(announced) == 3


def test_sync_takes_the_records_that_are_wanted(runs, store):
    for seed in range(3):
        runs.save(cell(seed=seed))
    sync("quickstart", runs=runs, tracker=Tracker(), wanted=lambda record: record.seed > 0)
    assert store.put == ["gim seed 1", "gim seed 2", "gim summary, n=2"]


def test_a_cell_that_is_finished_during_sync_is_synced_and_counted_once(runs, store):
    runs.save(cell())
    synced = sync(
        "quickstart",
        runs=runs,
        tracker=Tracker(),
        announce=lambda _: runs.save(replace(cell(), seed=1, key="1" * 64)),
    )
    assert sorted(e.name for e in synced.new) == ["gim seed 0", "gim seed 1", "gim summary, n=2"]
    assert synced.unchanged == []


def test_sync_of_a_store_that_fails_raises(runs, store):
    runs.save(cell())
    store.broken = True
    with pytest.raises(TrackingError, match="it went away"):
        sync("quickstart", runs=runs, tracker=Tracker())


def test_the_example_of_the_documentation_syncs_a_suite(runs, store, tmp_path, monkeypatch, capsys):
    runs.save(cell(suite="stl10"))
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "mlflow.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(example, {})  # noqa: S102
    assert capsys.readouterr().out == "['gim seed 0', 'gim summary, n=1']\n"


def test_sync_prints_nothing(runs, store, capsys):
    runs.save(cell())
    sync("quickstart", runs=runs, tracker=Tracker())
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
