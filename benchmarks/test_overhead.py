"""What stands around training: an epoch of quickstart's GIM bare, and as `run` does it; MLflow.

Seconds are of this process's processors, not of the clock: on a machine with other jobs the few
per cent that are looked for here would drown. An epoch is short: what is done once for each cell
(audit, calibration, record) weighs five times as much here as in quickstart.
"""

import ctypes
import itertools
import time
from pathlib import Path

import pytest
import torch

from gim_bench.cells.bench import Bench
from gim_bench.cells.build import build, models_of, planned_steps, trainer_of
from gim_bench.cells.cell import Cell
from gim_bench.cells.resolve import cells, configs, dataset_of
from gim_bench.cells.run import run_cell
from gim_bench.cli.display import progress_for
from gim_bench.contract import Split
from gim_bench.progress import Silence
from gim_bench.records.folder import RunsFolder
from gim_bench.settings.schema import Suite
from gim_bench.settings.suites import load_suite
from gim_bench.tracking.client import Tracker

CPU = torch.device("cpu")
EPOCHS = 1
TRAINING = f"{EPOCHS} epoch of GIM on quickstart"
MIRRORING = "a record of quickstart to MLflow"

pytestmark = [
    # MLflow 3.17 declares its tables with a strategy that SQLAlchemy 2.1 deprecates.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


@pytest.fixture(scope="module", autouse=True)
def blocks_are_kept(tried_only) -> None:
    """Blocks of up to 32 MiB stay with the process when they are freed, if it has glibc.

    Else it may come to hand them back at every step, and page faults then cost more than is
    looked for here: in about half of all runs, bare ones or not (docs/experiments.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not tried_only:
        m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
        assert mallopt(m_mmap_threshold, 2**25) == mallopt(m_trim_threshold, 2**30) == 1


@pytest.fixture(scope="module")
def suite(tried_only) -> Suite:
    """Without a probe, which is no part of training."""
    sizes = [f"dataset.{split}_images=64" for split in Split] if tried_only else []
    loaded = load_suite("quickstart", overrides=[f"training.epochs={EPOCHS}", *sizes])
    return loaded.model_copy(update={"probe": None})


@pytest.fixture(scope="module")
def bench(suite, tmp_path_factory) -> Bench:
    kind, options = dataset_of(suite)
    cache = tmp_path_factory.mktemp("cache")
    dataset = kind(options=options, data_dir=None, cache_dir=cache)
    return Bench(dataset, device=CPU, progress=progress_for())


@pytest.fixture(scope="module")
def cell(suite, bench) -> Cell:
    configured = configs(suite, methods=["gim"], device=CPU)
    (found,) = cells(suite, configured, seeds=[0], data_sha256=bench.dataset.fingerprint())
    return found


@pytest.mark.benchmark(group=TRAINING, timer=time.process_time)
def test_bare(benchmark, cell, bench):
    """Batches, steps, and nothing else."""

    def train() -> int:
        (model,) = models_of(cell, bench)
        learner = build(cell, bench, target=model.target)
        trainer = trainer_of(cell, learner, device=CPU)
        batches = bench.batches(cell, Split.UNLABELLED)
        epochs = (batches.epoch(number) for number in itertools.count(1))
        steps = itertools.islice(itertools.chain.from_iterable(epochs), planned_steps(cell, bench))
        return sum(1 for batch in steps if trainer.step(batch))

    assert benchmark.pedantic(train, rounds=5, warmup_rounds=1) == planned_steps(cell, bench)


@pytest.mark.benchmark(group=TRAINING, timer=time.process_time)
def test_as_run_does_it(benchmark, cell, bench, tmp_path):
    """With progress, losses read and checked, memory sampled, weights and record written."""
    runs = RunsFolder(tmp_path)
    record = benchmark.pedantic(
        run_cell, args=(cell, bench), kwargs={"runs": runs}, rounds=5, warmup_rounds=1
    )
    assert record.error is None
    assert runs.find("quickstart", "gim", seed=0, key=cell.key) is not None


@pytest.mark.benchmark(group=MIRRORING)
@pytest.mark.parametrize("store", ["new", "there already"])
def test_mirroring(benchmark, cell, bench, tmp_path, store):
    """By the clock. A new store costs MLflow's tables, and the first call of all its import."""
    runs = RunsFolder(tmp_path / "runs")
    record = run_cell(cell, Bench(bench.dataset, device=CPU, progress=Silence()), runs=runs)
    numbers = itertools.count()

    def mirror() -> Path:
        name = "old" if store == "there already" else f"new-{next(numbers)}"
        path = tmp_path / f"{name}.db"
        Tracker(f"sqlite:///{path}").mirror(record, folder=runs.folder_of(record))
        return path

    path = benchmark.pedantic(mirror, rounds=5, warmup_rounds=1)
    assert path.is_file()
