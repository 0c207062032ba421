"""Studies: trials that several processes share, none of them lost and none double."""

import importlib.util
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from contextlib import closing
from datetime import datetime
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from gim_bench.errors import ConfigError
from gim_bench.progress import Silence
from gim_bench.sweep import studies as shared
from gim_bench.sweep.probe_rates import BATCH, GRID
from gim_bench.sweep.studies import Outcome, Studies
from gim_bench.system.addresses import sqlite_address
from tests.databases import postgresql
from tests.forked import Command
from tests.sweep import sharing
from tests.sweep.sharing import complete, tried

ROOT = Path(__file__).resolve().parents[2]
SPACE = {"learning_rate": FloatDistribution(1e-5, 1.0, log=True)}


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


def test_more_trials_are_added_to_earlier_trials(studies, url):
    complete(studies.open("study", {}), 3)
    complete(Studies(url).open("study", {}), 20)
    check_complete(url, 20)


def test_a_study_that_is_done_is_not_touched(studies, url):
    complete(studies.open("study", {}), 20)
    complete(studies.open("study", {}), 20, evaluate=lambda params: pytest.fail("evaluated"))
    check_complete(url, 20)


def test_trials_are_found_where_the_best_rates_are(studies, url):
    """More than a third of the rates that TPE adds to a grid of five decades is in the best one."""
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


def test_an_interruption_gives_the_trials_back(studies, url):
    def interrupted(params):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(studies.open("study", {}), 20, evaluate=interrupted)
    assert not trials(url, TrialState.RUNNING)
    complete(studies.open("study", {}), 20)
    check_complete(url, 20)


# -- processes -------------------------------------------------------------------------------------


def worker(url, wanted, folder, *, processes):
    """A process in a folder of its own, as on a machine of its own."""
    folder.mkdir(exist_ok=True)
    place = tempfile.mkdtemp(dir=folder.parent)
    arguments = (url, str(wanted), str(folder), str(processes))
    return Command(place, *arguments, variables=os.environ, main=sharing.main)


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
    killed.kill()
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


def test_a_process_that_died_before_it_named_itself_has_lost_its_trial(studies, url):
    abandoned(url)
    complete(studies.open("study", {}), 20)
    check_complete(url, 20)


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(studies, url):
    study, _ = abandoned(url, **(shared._owner() | {"started": 1.0, "ticks": None}))
    assert shared._is_lost(study.trials[0])
    complete(studies.open("study", {}), 20)
    check_complete(url, 20)


def test_a_process_that_dies_while_it_gives_a_trial_back_does_not_double_the_trial(studies, url):
    study, trial = abandoned(url)
    study.enqueue_trial({"learning_rate": GRID[0]}, user_attrs={"retry_of": trial.number})
    complete(studies.open("study", {}), 20)
    check_complete(url, 20)


@pytest.mark.parametrize(("hours", "lost"), [(0.5, False), (1.5, True)])
def test_a_trial_of_another_machine_is_lost_after_an_hour(url, hours, lost):
    """The time that the owner wrote counts, whatever the time zones of the machines."""
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
            "ticks": None,
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


def test_a_process_that_lost_its_trial_to_others_tells_nothing(studies, url):
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


def test_a_process_that_died_after_it_wrote_why_a_trial_failed_has_settled_the_trial(studies, url):
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


# case 14
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h:s3cret/x",
        "postgresql://ann:s3cret@localhost:1/name",
        "postgresql://localhost:1/name?user=ann&password=s3cret",
        "postgresql://ann:s3cret/@localhost:1/name",
        "mysql://ann:s3cret@localhost/name",
        "postgresql+nothing://ann:s3cret@localhost/name",
    ],
)
def test_the_line_about_a_database_shows_no_password(url):
    with pytest.raises(ConfigError, match=r"^cannot keep trials in --storage [^\n]*$") as told:
        Studies(url)
    assert "s3cret" not in str(told.value)


def test_tables_of_another_version_of_optuna_are_refused_in_one_line(studies, tmp_path):
    with closing(sqlite3.connect(tmp_path / "sweep.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'v999.a'")
    with pytest.raises(
        ConfigError, match=r"^cannot keep trials in --storage [^\n]*table schema[^\n]*$"
    ):
        Studies(studies.url)


# case 13
def test_the_documented_address_needs_the_driver_of_the_documented_extra():
    page = (ROOT / "docs" / "sweep.md").read_text("utf-8")
    (extra,) = re.findall(r"pip install 'gim-bench\[(\w+)\]'", page)
    (address,) = re.findall(r"--storage (\S+://\S+)", page)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (requirement,) = project["optional-dependencies"][extra]
    assert requirement.startswith(f"{shared.POSTGRESQL_DRIVER}[binary]")
    with pytest.raises(ConfigError) as told:  # of a server that is not there
        Studies(address)
    if importlib.util.find_spec(shared.POSTGRESQL_DRIVER):
        assert "No module" not in str(told.value)
    else:
        assert f"No module named '{shared.POSTGRESQL_DRIVER}'" in str(told.value)


# case 19
@pytest.mark.parametrize("name", ["lr?1", "50%", "my%20drive", "a{b}#c"])
def test_trials_lie_in_the_folder_that_was_named(name, tmp_path):
    Studies(sqlite_address(tmp_path / name / "sweep.db")).open("study", {})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    found = sorted(path.name for path in (tmp_path / name).iterdir())
    assert found == ["sweep.db", "sweep.db.trials.lock"]


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "sweep.db").write_text("not a database, and longer than a header" * 100)
    with pytest.raises(ConfigError, match=r"not a database[^\n]*$"):
        Studies(f"sqlite:///{tmp_path / 'sweep.db'}")


def test_a_study_of_another_encoder_is_refused(studies):
    studies.open("study", {"encoder_sha256": "a"})
    with pytest.raises(ConfigError, match=r"begun with another encoder_sha256[^\n]*$"):
        studies.open("study", {"encoder_sha256": "b"})


@pytest.mark.slow
def test_two_processes_share_the_trials_of_a_postgresql_study(tmp_path):
    """Processes of several machines have no lock file in common: the database has the lock."""
    with postgresql() as url:
        share(url, tmp_path / "claimed")
    assert list(tmp_path.rglob("*.lock")) == []
