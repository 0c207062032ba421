"""MLflow runs of cells that train, in a real SQLite store."""

import platform
from collections import Counter
from contextlib import contextmanager, suppress

import pytest

from gim_bench.errors import TrackingError
from gim_bench.records.folder import RunsFolder
from gim_bench.records.live import LiveLog
from gim_bench.records.provenance import now
from gim_bench.records.record import Status
from gim_bench.tracking import sync
from gim_bench.tracking.live import LiveRuns
from tests.tracking.records import cell, history, runs

# MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
# Times before and after all points that a test measures.
BEFORE, AFTER = "2020-01-01T10:00:00+00:00", "2100-01-01T10:00:00+00:00"
RUNNING = {"status": Status.RUNNING, "metrics": {}, "losses": (), "probe_curves": {}}


@pytest.fixture
def folder(tmp_path):
    return RunsFolder(tmp_path / "runs")


@pytest.fixture
def live(tracker):
    return LiveRuns(tracker.uri, patience_seconds=60)


@contextmanager
def training(folder, record):
    """The folder of a cell at which this process works, within the block."""
    folder.save(record)
    identity = {"seed": record.seed, "key": record.key}
    with folder.claimed(record.suite, record.method, **identity) as claim:
        assert claim is not None
        yield folder.folder_of(record)


def measure(place, *steps, name="step_loss/module_1", made_by="this code"):
    log = LiveLog(place, made_by=made_by)
    for step in steps:
        log.add(name, 10.0 / step, step=step)
    log.write()


def losses(*steps):
    return [(step, 10.0 / step) for step in steps]


@pytest.fixture
def calls(live, monkeypatch):
    """Names of the calls that the client makes."""
    made = []
    client = type(live._client)
    for name in ("log_batch", "search_runs", "create_run", "update_run", "set_terminated"):
        original = getattr(client, name)

        def counted(*arguments, original=original, name=name, **options):
            made.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(client, name, counted)
    return made


# -- while a cell trains ---------------------------------------------------------------------------


def test_a_cell_that_trains_is_a_run_that_is_running_with_its_points(live, folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1, 2)
        live.send(place)
        (run,) = runs(live)
        assert (run.info.status, run.info.run_name) == ("RUNNING", "gim seed 0")
        assert history(live, run, "step_loss/module_1") == losses(1, 2)
        assert run.data.params["encoder.width"] == "8"
        assert run.data.tags["method"] == "gim"
        assert run.data.tags["status"] == "running"


def test_a_later_look_asks_the_store_once_and_sends_what_is_new(live, folder, calls):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1, 2)
        live.send(place)
        measure(place, 3)
        calls.clear()
        live.send(place)
        assert calls == ["log_batch"]
        calls.clear()
        live.send(place)
        assert calls == []
    (run,) = runs(live)
    assert history(live, run, "step_loss/module_1") == losses(1, 2, 3)


def test_more_points_than_one_call_takes_wait_for_the_next_look(live, folder, monkeypatch):
    monkeypatch.setattr("gim_bench.tracking.connection.POINTS_PER_CALL", 2)
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1, 2, 3)
        live.send(place)
        (run,) = runs(live)
        assert history(live, run, "step_loss/module_1") == losses(1, 2)
        live.send(place)
        assert history(live, run, "step_loss/module_1") == losses(1, 2, 3)


def test_a_call_whose_answer_is_lost_is_not_repeated_with_the_same_points(
    live, folder, monkeypatch
):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        live.send(place)
        measure(place, 2)
        client = type(live._client)
        log_batch = client.log_batch

        def lost(*arguments, **options):
            log_batch(*arguments, **options)
            raise ConnectionError("the answer is lost")

        with monkeypatch.context() as patch, suppress(Exception):
            patch.setattr(client, "log_batch", lost)
            live.send(place)
        measure(place, 3)
        live.send(place)
    (run,) = runs(live)
    assert history(live, run, "step_loss/module_1") == losses(1, 2, 3)


def test_a_run_that_was_deleted_comes_back_with_all_points(live, folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        live.send(place)
        (run,) = runs(live)
        live._client.delete_run(run.info.run_id)
        measure(place, 2)
        with suppress(Exception):
            live.send(place)
        live.send(place)
        (again,) = runs(live)
        assert history(live, again, "step_loss/module_1") == losses(1, 2)


def test_a_cell_that_ended_during_the_look_leaves_no_run(live, folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
    live.send(place)
    assert runs(live) == []


def test_a_cell_without_points_has_no_run(live, folder, calls):
    with training(folder, cell(**RUNNING)) as place:
        live.send(place)
    assert calls == []


# -- at the end ------------------------------------------------------------------------------------


def finish(folder, tracker, *, finished_at=AFTER, **changes):
    """Save and mirror the record of a cell that has ended."""
    record = cell(**changes)
    record.provenance["finished_at"] = finished_at
    folder.save(record)
    tracker.mirror(record, folder=folder.folder_of(record))
    return record


def test_the_record_completes_the_run_and_each_point_is_there_once(tracker, live, folder):
    """Points that were sent, points that were not, and epochs that the record has too."""
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1, 2)
        log = LiveLog(place, made_by="this code")
        log.add("epoch_loss/module_1", 3.0, step=1)
        log.write()
        live.send(place)
        measure(place, 3)
    (begun,) = runs(live)
    finish(folder, tracker)
    (run,) = runs(live)
    assert run.info.run_id == begun.info.run_id
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "done")
    assert run.data.metrics["accuracy"] == 60.0
    assert history(live, run, "step_loss/module_1") == losses(1, 2, 3)
    assert history(live, run, "epoch_loss/module_1") == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert [a.path for a in live._client.list_artifacts(run.info.run_id)] == [
        "figures",
        "probe_curves.csv",
        "record.json",
    ]
    models = live._client.search_logged_models([run.info.experiment_id])
    assert [model.name for model in models] == ["gim seed 0 module 1"]


def test_mirroring_a_completed_run_again_changes_nothing(tracker, live, folder, calls):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        live.send(place)
    record = finish(folder, tracker)
    before = [run.to_dictionary() for run in runs(live)]
    calls.clear()
    tracker.mirror(record, folder=place)
    assert not {"log_batch", "create_run"} & set(calls)
    assert [run.to_dictionary() for run in runs(live)] == before


def test_a_completion_that_fails_half_way_is_made_good_by_the_next(
    tracker, live, folder, monkeypatch
):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1, 2)
        live.send(place)
        measure(place, 3)
    (begun,) = runs(live)

    def away(*_, **__):
        raise ConnectionError("it went away")

    with monkeypatch.context() as patch, suppress(Exception):
        patch.setattr(type(live._client), "set_terminated", away)
        finish(folder, tracker)
    finish(folder, tracker)
    (run,) = runs(live)
    assert (run.info.run_id, run.info.status) == (begun.info.run_id, "FINISHED")
    assert history(live, run, "step_loss/module_1") == losses(1, 2, 3)
    assert history(live, run, "accuracy") == [(0, 60.0)]
    assert len(live._client.search_logged_models([run.info.experiment_id])) == 1


def test_points_of_a_cell_that_was_not_tracked_are_mirrored_with_its_record(tracker, folder):
    """Of a cell that ends within the second of its first point: records give times in seconds."""
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1, 2)
    finish(folder, tracker, finished_at=now())
    (run,) = runs(tracker)
    assert history(tracker, run, "step_loss/module_1") == losses(1, 2)


def test_of_points_that_the_record_contradicts_the_record_is_right(tracker, live, folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1, 2)
        measure(place, 1, 2, name="epoch_loss/module_1")  # 10, where the record says 3
        live.send(place)
    finish(folder, tracker)
    (run,) = runs(live)
    assert history(live, run, "epoch_loss/module_1") == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert history(live, run, "step_loss/module_1") == losses(1, 2)


def test_a_failed_cell_completes_its_run_as_failed(tracker, live, folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        live.send(place)
    finish(folder, tracker, **RUNNING | {"status": Status.FAILED, "error": "a loss is nan"})
    (run,) = runs(live)
    assert run.info.status == "FAILED"
    assert history(live, run, "step_loss/module_1") == losses(1)


# -- several processes -----------------------------------------------------------------------------


def test_another_process_that_resumes_the_cell_goes_on_in_its_run(live, folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1, 2)
        live.send(place)
    assert live.mark_killed(place)
    (killed,) = runs(live)
    assert killed.info.status == "KILLED"
    other = LiveRuns(live.uri, patience_seconds=60)
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 2, 3)
        other.send(place)
        (run,) = runs(live)
    assert (run.info.run_id, run.info.status) == (killed.info.run_id, "RUNNING")
    assert history(live, run, "step_loss/module_1") == losses(1, 2, 3)


def test_the_run_of_a_killed_cell_has_its_last_points(live, folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        live.send(place)
        measure(place, 2)
    live.mark_killed(place)
    (run,) = runs(live)
    assert history(live, run, "step_loss/module_1") == losses(1, 2)


def test_a_cell_at_which_a_process_works_is_not_marked_as_killed(live, folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        live.send(place)
        assert not live.mark_killed(place)
        (run,) = runs(live)
        assert run.info.status == "RUNNING"


def test_sync_marks_what_was_killed_and_leaves_the_rest_alone(tracker, live, folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        live.send(place)
    with training(folder, cell(seed=1, **RUNNING)) as place:
        measure(place, 1)
        live.send(place)
        for _ in range(2):
            sync("quickstart", runs=folder, tracker=tracker)
            statuses = {run.info.run_name: run.info.status for run in runs(live)}
            assert statuses == {"gim seed 0": "KILLED", "gim seed 1": "RUNNING"}


@contextmanager
def running_again(folder, tracker, live):
    """The folder of a finished cell that this process runs again, within the block."""
    record = finish(folder, tracker, finished_at=BEFORE)
    with training(folder, record) as place:
        measure(place, 1)
        live.send(place)
        yield place


def test_a_finished_cell_that_runs_again_has_both_runs_until_its_end(tracker, live, folder):
    with running_again(folder, tracker, live):
        sync("quickstart", runs=folder, tracker=tracker)
        cells = runs(live, "tags.kind = 'cell'")
        assert Counter(run.info.status for run in cells) == {"FINISHED": 1, "RUNNING": 1}
    finish(folder, tracker)
    (run,) = runs(live, "tags.kind = 'cell'")
    assert run.info.status == "FINISHED"
    assert history(live, run, "step_loss/module_1") == losses(1)


def test_the_interrupted_rerun_of_a_finished_cell_stays_beside_the_record(tracker, live, folder):
    record = finish(folder, tracker, finished_at=BEFORE)
    with training(folder, record) as place:
        measure(place, 1)
        live.send(place)
    sync("quickstart", runs=folder, tracker=tracker)
    cells = runs(live, "tags.kind = 'cell'")
    assert Counter(run.info.status for run in cells) == {"FINISHED": 1, "RUNNING": 1}


@pytest.mark.parametrize("contradicted", [(), ("epoch_loss/module_1",)])
def test_a_cell_that_ends_on_another_machine_completes_or_replaces_the_run_of_the_first(
    tracker, live, folder, monkeypatch, contradicted
):
    with training(folder, cell(**RUNNING)) as place:
        for name in ("step_loss/module_1", *contradicted):
            measure(place, 1, 2, name=name)
        live.send(place)
    monkeypatch.setattr(platform, "node", lambda: "another-machine")
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 3)
        LiveRuns(live.uri, patience_seconds=60).send(place)
    finish(folder, tracker)
    (run,) = runs(live)
    assert run.info.status == "FINISHED"
    assert history(live, run, "step_loss/module_1") == losses(1, 2, 3)


def test_another_attempt_at_the_cell_replaces_the_run_of_the_first(live, folder):
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1, 2)
        live.send(place)
        measure(place, 1, made_by="other code")
        LiveRuns(live.uri, patience_seconds=60).send(place)
    (run,) = runs(live)
    assert history(live, run, "step_loss/module_1") == losses(1)


def test_the_same_cell_in_another_folder_has_a_run_of_its_own_while_it_trains(
    tracker, live, folder, tmp_path
):
    other = RunsFolder(tmp_path / "others")
    with training(other, cell(**RUNNING)) as place:
        measure(place, 1)
        live.send(place)
        finish(folder, tracker)
        assert Counter(run.info.status for run in runs(live)) == {"FINISHED": 1, "RUNNING": 1}


def test_of_a_server_the_password_is_in_no_complaint(folder):
    live = LiveRuns("http://ann:s3cret@127.0.0.1:9", patience_seconds=5)
    with training(folder, cell(**RUNNING)) as place:
        measure(place, 1)
        with pytest.raises(TrackingError, match="cannot track to") as complaint:
            live.send(place)
    assert "s3cret" not in str(complaint.value)
