"""A team's stores: one MLflow server on PostgreSQL, artifacts through it.

Eight processes work at one folder of runs. Artifacts lie in a bucket where moto, a made-up S3 on
the loopback address, is installed, and in the server's folder elsewhere.
"""

import json
import os
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from gim_bench.records.record import Status
from tests.databases import postgresql
from tests.endurance.commands import fork, records
from tests.servers import Server, names
from tests.tiny_suite import TOML

pytestmark = pytest.mark.slow

BUCKET = "team"
KEYS = {"AWS_ACCESS_KEY_ID": "made-up-user", "AWS_SECRET_ACCESS_KEY": "made-up-secret"}
SUITE = ("--suite", "./tiny.toml", "--set", "training.epochs=5")
TINY = ("run", *SUITE, "--seeds", "2")
TRIALS = 6


def together(folder, *commands):
    """The exit codes of commands that run beside each other; what they say is left in files."""
    begun = [fork(folder, *each) for each in commands]
    for process in begun:
        said = process.communicate(timeout=1200)
        (folder / f"log-{process.pid}").write_text("".join(said))
    return [process.returncode for process in begun]


@contextmanager
def bucket():
    """The address of an empty bucket; "" where moto is not installed."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        yield ""
        return
    import boto3

    made_up = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    made_up.start()
    host, port = made_up.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}/artifacts"
    made_up.stop()


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """Eight processes have run a suite of four cells with tracking to the team's server."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "tiny.toml").write_text(TOML)
    with ExitStack() as open_:
        database = open_.enter_context(postgresql())
        place = open_.enter_context(bucket())
        open_.enter_context(pytest.MonkeyPatch.context()).setenv("OMP_NUM_THREADS", "1")
        server = Server(tmp_path_factory.mktemp("server"), store=driven(database), artifacts=place)
        open_.enter_context(server)
        codes = together(folder, *[(*TINY, "--workers", "1", "--tracking-uri", server.uri)] * 8)
        yield SimpleNamespace(
            folder=folder, database=database, server=server, bucket=place, codes=codes
        )


def driven(address):
    """The address with its driver, as SQLAlchemy wants it."""
    return address.replace("postgresql:", "postgresql+psycopg:")


def said(folder):
    return "\n".join(path.read_text() for path in folder.glob("log-*"))


def test_of_eight_processes_at_one_server_each_cell_is_run_by_one_and_mlflow_has_each_once(team):
    assert team.codes == [0] * 8, said(team.folder)
    assert Counter(r.status for r in records(team.folder, "tiny").values()) == {Status.DONE: 4}
    assert names(team.server.content("gim_bench/tiny")) == [
        "gim seed 0", "gim seed 1", "gim summary, n=2",
        "random_init seed 0", "random_init seed 1", "random_init summary, n=2",
    ]  # fmt: skip
    assert "not mirrored" not in said(team.folder)
    assert "without artifacts" not in said(team.folder)


def test_artifacts_are_read_through_the_server(team):
    from mlflow.artifacts import download_artifacts

    cells = [r for r in team.server.content("gim_bench/tiny") if "seed" in r["data"]["tags"]]
    for run in cells:
        assert run["info"]["artifact_uri"].startswith("mlflow-artifacts:")
        source = f"{run['info']['artifact_uri']}/record.json"
        local = Path(download_artifacts(source, tracking_uri=team.server.uri))
        assert json.loads(local.read_text())["key"] == run["data"]["tags"]["gim_bench.key"]


def test_artifacts_lie_in_the_bucket_whose_keys_the_server_alone_has(team):
    if not team.bucket:
        pytest.skip("moto is not installed")
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"])
    kept = [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert sum(key.endswith("/artifacts/record.json") for key in kept) >= 4
    assert not (team.server.folder / "artifacts").exists()


@pytest.fixture(scope="module")
def swept(team):
    """Four processes share the trials of the team's sweeps: the address of their database."""
    import psycopg

    with psycopg.connect(team.database, autocommit=True) as connection:
        connection.execute("CREATE DATABASE sweeps")
    trials = driven(team.database).replace("/postgres", "/sweeps")
    told = trials.replace("tester@", f"tester:{os.environ['PGPASSWORD']}@")  # as many write it
    shared = ("--trials", str(TRIALS), "--storage", told, "--tracking-uri", team.server.uri)
    codes = together(team.folder, *[("sweep", *SUITE, "--seeds", "2", *shared)] * 4)
    assert codes == [0] * 4, said(team.folder)
    return trials


def test_four_processes_share_the_trials_of_a_sweep(swept):
    import optuna

    studies = optuna.get_all_study_summaries(swept)
    assert len(studies) == 4  # two methods, two seeds
    for study in studies:
        trials = optuna.load_study(study_name=study.study_name, storage=swept).trials
        done = [t for t in trials if t.state is optuna.trial.TrialState.COMPLETE]
        assert len(done) == TRIALS
        assert len({str(t.params) for t in done}) == TRIALS


def test_the_password_of_the_database_is_in_nothing_that_was_written(team, swept):
    import psycopg

    password = os.environ["PGPASSWORD"]
    written = [p for of in (team.folder, team.server.folder) for p in of.rglob("*") if p.is_file()]
    assert len(written) > 30
    assert not [path for path in written if password.encode() in path.read_bytes()]
    looked = 0
    for address in (team.database, swept.replace("+psycopg", "")):
        with psycopg.connect(address) as connection:
            own = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            for (table,) in connection.execute(own).fetchall():
                rows = connection.execute(f'SELECT t::text FROM "{table}" t').fetchall()  # noqa: S608
                looked += len(rows)
                assert not [table for (row,) in rows if password in row]
    assert looked > 1000
