"""Sweeps: trials that are neither lost nor doubled, and what a record holds of them."""

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import optuna
import psutil
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from gim_bench.cells.run import run_cell
from gim_bench.errors import ConfigError
from gim_bench.probing.classifiers import Tried
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.records.record import Status
from gim_bench.report.sweeps import HEADINGS, sweep_table
from gim_bench.sweep import probe_rates
from gim_bench.sweep import studies as shared
from gim_bench.sweep.probe_rates import (
    BATCH,
    GRID,
    Plan,
    decades_within,
    first_rates,
    sweep_cell,
    tried_in,
)
from gim_bench.sweep.studies import Outcome, Studies
from gim_bench.system.locks import locked
from tests.conftest import CLASS, PHONE
from tests.sharing import complete, tried
from tests.tiny_suite import SPEECH_TOML, noise_registered, tiny_bench, tiny_cell, tiny_suite

ROOT = Path(__file__).resolve().parents[2]
SPACE = {"learning_rate": FloatDistribution(1e-5, 1.0, log=True)}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """One whose tables are made once: the tests copy the file."""
    path = tmp_path_factory.mktemp("optuna") / "sweep.db"
    Studies(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def url(tmp_path, empty_database):
    (tmp_path / "sweep.db").write_bytes(empty_database)
    return f"sqlite:///{tmp_path / 'sweep.db'}"


@pytest.fixture
def studies(url):
    return Studies(url)


def trials(url, *states):
    study = optuna.load_study(storage=url, study_name="study")
    return study.get_trials(states=states or None)


def check_complete(url, wanted):
    """Just as many, every point of the grid once, nobody at any."""
    done = trials(url, TrialState.COMPLETE)
    assert len(done) == wanted
    counts = Counter(trial.params["learning_rate"] for trial in done)
    assert [counts[rate] for rate in GRID] == [1] * len(GRID)
    assert not trials(url, TrialState.RUNNING, TrialState.WAITING)


# -- trials ----------------------------------------------------------------------------------------


def test_a_study_begins_with_the_points_and_ends_with_as_many_trials_as_asked_for(studies, url):
    complete(studies.open("study", {}), 20)
    check_complete(url, 20)
    found = [trial.params["learning_rate"] for trial in trials(url)]
    assert found[: len(GRID)] == list(GRID)
    assert all(GRID[0] <= rate <= GRID[-1] for rate in found)


def test_fewer_trials_than_points_are_the_first_points(studies, url):
    complete(studies.open("study", {}), 3)
    assert [trial.params["learning_rate"] for trial in trials(url)] == list(GRID[:3])


def test_more_trials_are_added_to_those_that_are_there(studies, url):
    complete(studies.open("study", {}), 3)
    complete(Studies(url).open("study", {}), 20)
    check_complete(url, 20)


def test_a_study_that_is_done_is_not_touched(studies, url):
    complete(studies.open("study", {}), 20)
    complete(studies.open("study", {}), 20, evaluate=lambda params: pytest.fail("evaluated"))
    check_complete(url, 20)


def test_trials_are_found_where_the_best_rates_are(studies, url):
    """Of what TPE adds to a grid over five decades, more than a third is in the best one."""
    complete(studies.open("study", {}), 32)
    added = [trial.params["learning_rate"] for trial in trials(url)[len(GRID) :]]
    assert sum(rate > 0.1 for rate in added) > len(added) / 3


def test_trials_of_the_same_study_are_the_same(tmp_path):
    found = []
    for name in "ab":
        url = f"sqlite:///{tmp_path / name}.db"
        complete(Studies(url).open("study", {}), 20)
        found.append([trial.params for trial in trials(url)])
    assert found[0] == found[1]


def test_what_came_of_the_trials_is_read_in_their_order(studies):
    study = studies.open("study", {})
    complete(study, 4)
    assert tried_in(study) == tried([{"learning_rate": rate} for rate in GRID[:4]])


def test_an_interruption_gives_the_trials_back(studies, url):
    def interrupted(params):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(studies.open("study", {}), 20, evaluate=interrupted)
    assert not trials(url, TrialState.RUNNING)
    complete(studies.open("study", {}), 20)
    check_complete(url, 20)


def test_a_loss_that_is_not_a_number_is_kept_as_infinite(studies):
    study = studies.open("study", {})
    lost = Tried(learning_rate=1.0, accuracy=10.0, loss=math.nan)
    complete(study, 1, evaluate=lambda params: [lost])
    assert tried_in(study)[0].loss == math.inf


# -- processes -------------------------------------------------------------------------------------


def worker(url, wanted, folder, *, processes):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sharing", url, str(wanted), str(folder), str(processes)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def share(url, folder):
    """Two processes complete 50 trials; each claims some before any is complete."""
    both = [worker(url, 50, folder, processes=2) for _ in range(2)]
    evaluated = [int(process.communicate(timeout=300)[0].split()[-1]) for process in both]
    assert all(process.returncode == 0 for process in both)
    assert sum(evaluated) == 50
    assert min(evaluated) >= BATCH
    check_complete(url, 50)


@pytest.mark.slow
def test_two_processes_share_the_trials_of_a_sqlite_file(tmp_path):
    """They make its tables, too."""
    share(f"sqlite:///{tmp_path / 'new' / 'sweep.db'}", tmp_path / "claimed")


@pytest.mark.slow
def test_after_a_kill_no_trial_is_lost_and_none_is_double(url, tmp_path):
    folder = tmp_path / "claimed"
    killed = worker(url, 20, folder, processes=2)  # waits for another one that never comes
    while not (folder.exists() and list(folder.iterdir())):
        assert killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert len(trials(url, TrialState.RUNNING)) == BATCH
    complete(Studies(url).open("study", {}), 20)
    check_complete(url, 20)
    assert len(trials(url, TrialState.FAIL)) == BATCH


def abandoned(url, **owner):
    """A trial of the grid's first point that is RUNNING, by that owner."""
    study = optuna.create_study(
        storage=url, study_name="study", direction="maximize", load_if_exists=True
    )
    study.enqueue_trial({"learning_rate": GRID[0]})
    trial = study.ask(SPACE)
    if owner:
        trial.set_user_attr("owner", owner)
    return study, trial


def test_who_died_before_saying_that_a_trial_is_theirs_has_lost_it(studies, url):
    abandoned(url)
    complete(studies.open("study", {}), 20)
    check_complete(url, 20)


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(studies, url):
    study, _ = abandoned(url, **(shared._owner() | {"started": 1.0}))
    assert shared._is_lost(study.trials[0])
    complete(studies.open("study", {}), 20)
    check_complete(url, 20)


def test_who_dies_while_giving_a_trial_back_does_not_double_it(studies, url):
    study, trial = abandoned(url)
    study.enqueue_trial({"learning_rate": GRID[0]}, user_attrs={"retry_of": trial.number})
    complete(studies.open("study", {}), 20)
    check_complete(url, 20)


@pytest.mark.parametrize(("hours", "lost"), [(0.5, False), (1.5, True)])
def test_a_trial_of_another_machine_is_lost_after_an_hour(url, hours, lost):
    """By the time that its owner wrote, whatever time zone either machine is in."""
    claimed = time.time() - hours * 3600
    study, _ = abandoned(
        url, host="elsewhere", machine="elsewhere", pid=1, started=1.0, claimed=claimed
    )
    (found,) = study.get_trials()
    found.datetime_start = datetime(1999, 1, 1) if not lost else datetime(2999, 1, 1)  # noqa: DTZ001 - as Optuna's
    assert shared._is_lost(found) is lost


def test_an_owner_is_this_process_now():
    before = time.time()
    owner = shared._owner()
    assert owner["pid"] == os.getpid()
    assert before <= owner["claimed"] <= time.time()


def test_a_killed_process_that_its_parent_has_not_waited_for_has_lost_its_trial(url):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        owner = shared._owner() | {
            "pid": child.pid,
            "started": psutil.Process(child.pid).create_time(),
        }
        study, _ = abandoned(url, **owner)
        assert not shared._is_lost(study.trials[0])
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert shared._is_lost(study.trials[0])


def test_trials_that_another_process_is_at_are_waited_for(studies, url, monkeypatch):
    study, trial = abandoned(url, **shared._owner())
    monkeypatch.setattr(time, "sleep", lambda seconds: study.tell(trial, 1.0))
    trial.set_user_attr("validation_loss", 1.0)
    complete(studies.open("study", {}), 20)
    check_complete(url, 20)
    assert study.trials[trial.number].value == 1.0


def test_who_was_so_slow_that_others_took_the_trial_tells_nothing(studies, url):
    study = studies.open("study", {})

    def slow(params):
        shared = optuna.load_study(storage=url, study_name="study")
        if not trials(url, TrialState.FAIL):
            study._give_back(shared.get_trials(states=(TrialState.RUNNING,))[:1])
        return tried(params)

    complete(study, 20, evaluate=slow)
    check_complete(url, 20)
    assert trials(url)[0].state is TrialState.FAIL


def settle(study, evaluate, wanted):
    """One trial after the other, of which x is always the same."""
    study.complete(
        wanted,
        lambda claimed: [evaluate(trial) for trial in claimed],
        points=[],
        space={"x": CategoricalDistribution((1,))},
        batch=1,
        advance=Silence().advance,
    )


FAILED = Outcome(state=TrialState.FAIL, attributes={"error": "nan"})
PRUNED = Outcome(state=TrialState.PRUNED, attributes={"key": "k"})


@pytest.mark.parametrize("first", [Outcome(value=0.0, attributes={"key": "k"}), FAILED, PRUNED])
def test_a_trial_with_the_parameters_of_a_settled_one_comes_to_the_same(studies, url, first):
    study = studies.open("study", {})
    found = []

    def evaluate(trial):
        found.append(study.outcome_of_twin(trial))
        return found[-1] or first

    settle(study, evaluate, 3)
    assert found == [None, first, first]
    assert [trial.state for trial in trials(url)] == [first.state] * 3


def test_a_trial_with_the_parameters_of_one_under_way_waits_for_it(studies, url, monkeypatch):
    study = studies.open("study", {})
    under_way = study._study.ask({"x": CategoricalDistribution((1,))})
    under_way.set_user_attr("owner", shared._owner())
    assert study.outcome_of_twin(under_way) is None
    monkeypatch.setattr(time, "sleep", lambda seconds: study._study.tell(under_way, 7.0))
    settle(study, lambda trial: study.outcome_of_twin(trial) or pytest.fail("not waited"), 2)
    assert [trial.value for trial in trials(url)] == [7.0, 7.0]


def test_a_trial_whose_twins_process_has_died_does_not_wait(studies):
    study = studies.open("study", {})
    lost = study._study.ask({"x": CategoricalDistribution((1,))})
    lost.set_user_attr("begun", True)
    claimed = study._study.ask({"x": CategoricalDistribution((1,))})
    assert study.outcome_of_twin(claimed) is None


def test_who_died_after_writing_down_why_a_trial_failed_has_settled_it(studies, url):
    study = studies.open("study", {})
    lost = study._study.ask({"x": CategoricalDistribution((1,))})
    lost.set_user_attr("error", "nan")
    settle(study, lambda trial: pytest.fail("tried again"), 1)
    assert [trial.state for trial in trials(url)] == [TrialState.FAIL]


def test_while_a_trial_is_evaluated_other_machines_are_told_that_it_is_not_lost(
    studies, url, monkeypatch
):
    monkeypatch.setattr(shared, "RENEW_SECONDS", 0.01)

    def claimed_at():
        (found,) = trials(url)
        return found.user_attrs["owner"]["claimed"]

    def evaluate(trial):
        begun, deadline = claimed_at(), time.monotonic() + 300
        while claimed_at() == begun:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return Outcome(value=1.0)

    settle(studies.open("study", {}), evaluate, 1)


# -- databases -------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "nonsense", "mongodb://host"])
def test_a_database_that_cannot_hold_trials_is_refused_in_one_line(url):
    with pytest.raises(ConfigError, match=r"^cannot keep trials in --storage [^\n]*$"):
        Studies(url)


def test_an_address_whose_port_is_no_number_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"^cannot keep trials in --storage [^\n]*abc[^\n]*$"):
        Studies("postgresql://h:abc/x")


def test_tables_of_another_version_of_optuna_are_refused_in_one_line(studies, tmp_path):
    with closing(sqlite3.connect(tmp_path / "sweep.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'v999.a'")
    with pytest.raises(
        ConfigError, match=r"^cannot keep trials in --storage [^\n]*table schema[^\n]*$"
    ):
        Studies(studies.url)


@pytest.mark.parametrize("error", [OSError, RuntimeError, ValueError])
def test_what_goes_wrong_in_a_trial_is_not_laid_to_the_database(finished, monkeypatch, error):
    def broken(*args, **kwargs):
        raise error("in the midst of a trial")

    monkeypatch.setattr(probe_rates, "validate_linear", broken)
    with pytest.raises(error, match="in the midst of a trial"):
        finished.sweep()


def test_a_server_that_does_not_answer_is_one_line_without_the_password():
    pytest.importorskip("psycopg2")
    with pytest.raises(ConfigError, match=r"^cannot keep[^\n]*$") as told:
        Studies("postgresql://me:secret@localhost:1/name")
    assert "secret" not in str(told.value)


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "sweep.db").write_text("not a database, and longer than a header" * 100)
    with pytest.raises(ConfigError, match=r"not a database[^\n]*$"):
        Studies(f"sqlite:///{tmp_path / 'sweep.db'}")


def test_a_study_of_another_encoder_is_refused(studies):
    studies.open("study", {"encoder_sha256": "a"})
    with pytest.raises(ConfigError, match=r"begun with another encoder_sha256[^\n]*$"):
        studies.open("study", {"encoder_sha256": "b"})


@contextmanager
def postgresql():
    """The address of a server of its own, on a socket in a folder of its own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = Path(found[-1] if found else shutil.which("initdb") or "")
    if not initdb.is_file():
        pytest.skip("PostgreSQL's initdb is not installed")
    pytest.importorskip("psycopg2")
    user = {"user": "nobody", "extra_groups": []} if os.getuid() == 0 else {}  # root is refused
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if user:
        shutil.chown(folder, "nobody")
    data, quiet = folder / "data", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    create = [initdb, "-D", data, "-U", "tester", "-A", "trust", "--no-sync"]
    subprocess.run(create, check=True, cwd=folder, **user, **quiet)
    server = subprocess.Popen(
        [initdb.with_name("postgres"), "-D", data, "-k", folder, "-c", "listen_addresses="],
        cwd=folder,
        **user,
        **quiet,
    )
    try:
        deadline = time.monotonic() + 300
        while not list(folder.glob(".s.PGSQL.*[0-9]")):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"postgresql+psycopg2://tester@/postgres?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)  # stops without waiting for connections
        server.wait(timeout=300)
        shutil.rmtree(folder)


@pytest.mark.slow
def test_two_processes_share_the_trials_of_a_postgresql_study(tmp_path):
    with postgresql() as url:
        share(url, tmp_path / "claimed")


# -- cells -----------------------------------------------------------------------------------------


class Swept:
    """A tiny cell that is finished, and what to sweep it with."""

    def __init__(self, folder, *overrides, method="gim", toml=None):
        suite = tiny_suite(folder, *overrides, **({} if toml is None else {"toml": toml}))
        self.bench = tiny_bench(suite)
        self.cell = tiny_cell(suite, method)
        self.runs = RunsFolder(folder / "runs")
        self.record = run_cell(self.cell, self.bench, runs=self.runs)
        assert self.record.status is Status.DONE, self.record.error
        self.url = f"sqlite:///{folder / 'sweep.db'}"

    @property
    def folder(self):
        return self.runs.folder_of(self.record)

    def features(self, *, record=None, encoder=None):
        """Those on disk, as far as they are taken."""
        encoder = encoder or self.runs.encoder_sha256(self.record, name="encoder")
        return self.runs.read_features(
            record or self.record, name="class-module_2", encoder=encoder
        )

    def sweep(self, *, record=None, **plan):
        """With the newest record, if none is given."""
        newest = record or self.runs.find(
            self.record.suite, self.record.method, seed=self.record.seed, key=self.record.key
        )
        return sweep_cell(
            self.cell,
            newest,
            self.bench,
            runs=self.runs,
            studies=Studies(self.url),
            plan=Plan(**{"trials": 14} | plan),
        )


@pytest.fixture
def finished(tmp_path, url):
    return Swept(tmp_path)


def test_a_trial_is_worth_what_the_suites_own_probe_validates_at_its_rate(finished):
    (found,) = finished.sweep().sweeps.values()
    by_rate = {row["learning_rate"]: row["validation_accuracy"] for row in found["curve"]}
    assert finished.record.probe_curves["module_2"]
    for rate, accuracy in finished.record.probe_curves["module_2"]:
        assert by_rate[rate] == accuracy


def test_the_papers_rate_is_tested_as_the_suites_probe_tests_it(tmp_path):
    only = Swept(tmp_path, "probe.learning_rates=[1e-3]", "probe.steps=40")
    (found,) = only.sweep().sweeps.values()
    assert found["paper"] == {
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "validation_accuracy": only.record.probe_curves["module_2"][0][1],
        "test_accuracy": only.record.metrics["accuracy/module_2"],
    }


def test_the_papers_trial_is_taken_from_the_study(finished, monkeypatch):
    """One pass trains the 14 trials, and no other follows them."""
    passes = []
    validate = probe_rates.validate_linear

    def counted(task, *, learning_rates, **others):
        passes.append(len(learning_rates))
        return validate(task, learning_rates=learning_rates, **others)

    monkeypatch.setattr(probe_rates, "validate_linear", counted)
    finished.sweep()
    assert passes == [14]
    finished.sweep(weight_decay=True)
    assert passes == [14, 14, 1]


def test_the_best_is_the_most_accurate_and_among_equals_of_the_lowest_loss(finished):
    (found,) = finished.sweep().sweeps.values()
    rows = found["curve"]
    best = max(rows, key=lambda row: (row["validation_accuracy"], -row["validation_loss"]))
    assert found["best"]["learning_rate"] == best["learning_rate"]
    assert found["trials"] == len(rows) == 14
    assert found["study"].split("/")[:2] == ["tiny", "gim"]
    assert found["study"].split("/")[3:] == ["class", "module_2"]


def test_the_record_and_a_file_hold_the_sweep_and_all_else_is_as_it_was(finished):
    swept = finished.sweep()
    found = finished.runs.records("tiny")
    assert found == [swept]
    assert swept.metrics == finished.record.metrics
    assert swept.status is Status.DONE
    table = json.loads((finished.folder / "sweep.json").read_text())
    assert table["key"] == swept.key
    assert table["sweeps"] == swept.sweeps


def test_all_modules_are_swept_on_request_and_stand_beside_each_other(finished):
    assert list(finished.sweep().sweeps) == ["module_2"]
    assert set(finished.sweep(all_modules=True).sweeps) == {"module_1", "module_2"}


def test_weight_decay_is_varied_in_a_study_of_its_own(finished):
    finished.sweep()
    swept = finished.sweep(weight_decay=True)
    assert set(swept.sweeps) == {"module_2", "module_2/weight_decay"}
    found = swept.sweeps["module_2/weight_decay"]
    assert len({row["weight_decay"] for row in found["curve"]}) == 14
    assert found["paper"]["weight_decay"] == 0.0
    assert found["decades_within_one_point"] is None


def test_a_second_sweep_runs_no_encoder_and_reads_no_test_set(finished, monkeypatch):
    swept = finished.sweep()
    monkeypatch.setattr(probe_rates, "build", lambda *args, **kwargs: pytest.fail("built"))
    assert finished.sweep() == swept


def count_tests(monkeypatch):
    """The probes of every pass over the test set, a list that grows."""
    passes = []
    test_accuracies = probe_rates.Frozen.test_accuracies

    def counted(frozen, probes):
        passes.append(len(probes))
        return test_accuracies(frozen, probes)

    monkeypatch.setattr(probe_rates.Frozen, "test_accuracies", counted)
    return passes


def test_a_process_that_began_before_another_one_tested_does_not_test_again(finished, monkeypatch):
    """It was given the record as it was without sweeps."""
    swept = finished.sweep()
    passes = count_tests(monkeypatch)
    assert finished.sweep(record=finished.record) == swept
    assert passes == []


def test_the_test_set_is_read_again_for_more_trials_and_the_reads_are_counted(
    finished, monkeypatch
):
    passes = count_tests(monkeypatch)
    assert finished.sweep().sweeps["module_2"]["test_reads"] == 1
    longer = finished.sweep(trials=16)
    assert longer.sweeps["module_2"]["trials"] == 16
    assert longer.sweeps["module_2"]["test_reads"] == 2
    assert len(passes) == 2
    assert finished.sweep(trials=14) == longer
    (row,) = sweep_table([longer]).rows
    assert row[HEADINGS.index("test reads")] == "2"


def test_what_another_process_swept_meanwhile_stays(finished, monkeypatch):
    """It saved its sweep in the midst of the test."""
    other = finished.sweep(trials=2).sweeps["module_2"]
    test_accuracies = probe_rates.Frozen.test_accuracies

    def slow(frozen, probes):
        newest = frozen.newest()
        frozen.runs.save_sweeps(replace(newest, sweeps={"other": other}))
        return test_accuracies(frozen, probes)

    monkeypatch.setattr(probe_rates.Frozen, "test_accuracies", slow)
    assert set(finished.sweep().sweeps) == {"other", "module_2"}


def test_records_are_read_tested_and_saved_by_one_process_at_a_time(finished, monkeypatch):
    test_accuracies = probe_rates.Frozen.test_accuracies
    refused = []

    def within(frozen, probes):
        with claim_of(finished) as claim:
            refused.append(claim is None)
        return test_accuracies(frozen, probes)

    monkeypatch.setattr(probe_rates.Frozen, "test_accuracies", within)
    finished.sweep()
    assert refused == [True]


def claim_of(finished):
    found = finished.record
    return finished.runs.claimed(found.suite, found.method, seed=found.seed, key=found.key)


def test_who_waits_for_a_cell_that_runs_again_keeps_no_other_sweep_waiting(
    finished, tmp_path, monkeypatch
):
    """For hours, maybe: nothing of the database is locked meanwhile."""
    waits, claimed = threading.Event(), finished.runs.claimed

    @contextmanager
    def noticed(*arguments, **identity):
        with claimed(*arguments, **identity) as claim:
            if claim is None:
                waits.set()
            yield claim

    monkeypatch.setattr(finished.runs, "claimed", noticed)
    monkeypatch.setattr(probe_rates, "WAIT_SECONDS", 0.01)
    with ThreadPoolExecutor() as pool:
        with claim_of(finished):
            sweep = pool.submit(finished.sweep)
            assert waits.wait(300)
            for path in tmp_path.rglob("*.lock"):
                with locked(path, timeout_seconds=5):
                    pass
        assert "module_2" in sweep.result().sweeps


def again(finished):
    """The cell's record, with the time of a run after the one that is swept."""
    provenance = {**finished.record.provenance, "finished_at": "2100-01-01T00:00:00+00:00"}
    finished.runs.save(replace(finished.record, provenance=provenance))


@pytest.mark.parametrize(
    "change",
    [
        again,
        lambda finished: (finished.folder / "record.json").unlink(),
        lambda finished: damage(finished.folder / "encoder.safetensors"),
    ],
    ids=["run again", "removed", "another encoder"],
)
def test_a_cell_that_was_run_again_during_its_sweep_is_refused(finished, monkeypatch, change):
    test_accuracies = probe_rates.Frozen.test_accuracies

    def meanwhile(frozen, probes):
        found = test_accuracies(frozen, probes)
        change(finished)
        return found

    monkeypatch.setattr(probe_rates.Frozen, "test_accuracies", meanwhile)
    with pytest.raises(ConfigError, match=r"^cannot keep the sweep of tiny/gim[^\n]*again[^\n]*$"):
        finished.sweep()
    assert not (finished.folder / "sweep.json").exists()


def test_a_record_without_sweeps_leaves_no_file_of_earlier_ones(finished):
    finished.sweep()
    finished.runs.save(finished.record)
    assert not (finished.folder / "sweep.json").exists()


def damage(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("harm", [damage, cut, Path.unlink])
def test_features_that_are_damaged_are_made_again(finished, harm):
    swept = finished.sweep()
    (path,) = (finished.folder / "features").iterdir()
    whole = finished.features().clone()  # it is mapped to the file
    harm(path)
    assert finished.features() is None
    assert finished.sweep() == swept
    assert torch.equal(finished.features(), whole)


def test_features_of_another_encoder_or_cell_are_not_taken(finished):
    finished.sweep()
    assert finished.features() is not None
    assert finished.features(encoder="another") is None
    key = "1" * len(finished.record.key)
    other = replace(finished.record, key=key)
    shutil.copytree(finished.folder, finished.runs.folder_of(other))
    assert finished.features(record=other) is None


@pytest.mark.parametrize("harm", [cut, Path.unlink])
def test_an_encoder_that_is_missing_or_damaged_is_one_line(finished, harm):
    harm(finished.folder / "encoder.safetensors")
    with pytest.raises(ConfigError, match=r"cannot read the encoder[^\n]*--rerun$"):
        finished.sweep(record=finished.record)


@pytest.mark.parametrize("method", ["gim", "supervised"])
def test_on_speech_every_target_is_swept_with_its_own_model(tmp_path, method):
    with noise_registered():
        spoken = Swept(
            tmp_path, "probe.learning_rates=[1e-3, 1e-4]", method=method, toml=SPEECH_TOML
        )
        swept = spoken.sweep()
    assert set(swept.sweeps) == {"speaker/module_6", "phone/module_6"}
    for name, found in swept.sweeps.items():
        own = dict(spoken.record.probe_curves[name])
        by_rate = {row["learning_rate"]: row["validation_accuracy"] for row in found["curve"]}
        assert {rate: by_rate[rate] for rate in own} == own
    assert swept.sweeps["speaker/module_6"]["paper"]["learning_rate"] == 1e-3
    assert swept.sweeps["phone/module_6"]["paper"]["learning_rate"] == 1e-4


# -- numbers ---------------------------------------------------------------------------------------


def test_the_papers_rate_comes_first_then_the_suites_then_the_grid(tmp_path):
    settings = tiny_suite(tmp_path, "probe.learning_rates=[0.02, 1e-3]").probe
    assert first_rates(CLASS, settings)[:2] == [1e-3, 0.02]
    assert first_rates(PHONE, settings)[:3] == [1e-4, 0.02, 1e-3]
    assert len(first_rates(CLASS, settings)) == len(GRID) + 1
    assert (GRID[0], GRID[-1], len(GRID)) == (1e-5, 1.0, 11)


def curve(*pairs):
    return [Tried(learning_rate=rate, accuracy=value, loss=1.0) for rate, value in pairs]


def test_the_range_within_a_point_is_unbroken_and_in_powers_of_ten():
    found = curve((1e-1, 60), (1e-4, 69), (1e-3, 70), (1e-2, 69.5), (1e-5, 68), (1.0, 69.5))
    assert decades_within(found, points=1.0) == pytest.approx(2.0)
    assert decades_within(found, points=10.0) == pytest.approx(5.0)
    assert decades_within(found[:1], points=1.0) == 0.0


def test_just_one_point_below_is_within_one_point():
    """634 and 644 of 1,000: in floating point, the two are a little further apart."""
    low, high = 100 * 634 / 1000, 100 * 644 / 1000
    assert high - low > 1.0
    assert decades_within(curve((1e-3, low), (1e-2, high)), points=1.0) == pytest.approx(1.0)
