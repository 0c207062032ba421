"""A suite of one method whose steps take their time, for workers that are killed."""

import sqlite3
from contextlib import closing

from gim_bench.records.claims import CLAIM
from gim_bench.records.record import Status
from tests.endurance.commands import records
from tests.tiny_suite import TOML

# GIM whose steps take their time without keeping a core busy.
PLUGIN = '''
import os, time
from gim_bench.methods.gim import GreedyInfoMax


class Slow(GreedyInfoMax):
    """GIM that sleeps."""

    def losses(self, batch):
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        yield from super().losses(batch)
'''


def slow_suite_in(folder, monkeypatch):
    """A folder with a suite of one slow method, which a plug-in brings."""
    info = folder / "site" / "slow-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "site" / "slow.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gim_bench.methods]\nslow = slow:METHODS\n")
    with (folder / "site" / "slow.py").open("a") as file:
        file.write('\nMETHODS = {"slow": "slow:Slow"}\n')
    place = folder / "work"
    place.mkdir()
    (place / "tiny.toml").write_text(TOML.replace('["gim", "random_init"]', '["slow"]'))
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    return place


def claims(folder):
    return list(folder.glob(f"runs/tiny/slow/*/{CLAIM}"))


def are_done(folder, count):
    found = records(folder, "tiny")
    return len(found) == count and {r.status for r in found.values()} == {Status.DONE}


def cells_in_mlflow(folder):
    """The number of active runs of each cell."""
    query = (
        "SELECT value, COUNT(*) FROM tags JOIN runs USING (run_uuid) "
        "WHERE key = 'gim_bench.key' AND lifecycle_stage = 'active' GROUP BY value"
    )
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return dict(database.execute(query).fetchall())
