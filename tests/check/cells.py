"""Finished records of the tiny suite, as of trained cells, and the reference made of them."""

from dataclasses import replace

from gim_bench.cells.outcome import begun
from gim_bench.check.making import new_reference
from gim_bench.records.record import Status
from tests.tiny_suite import tiny_bench, tiny_cell

METRICS = {
    "accuracy": 61.0,
    "accuracy/module_1": 50.0,
    "accuracy/module_2": 61.0,
    "loss": 2.0,
    "loss/module_1": 2.3,
    "loss/module_2": 2.0,
    "memory/host_over_baseline_bytes": 1e9,
    "train/step_per_calibration": 2.0,
    "train/seconds": 9.0,
}
UNTRAINED = METRICS | {"accuracy": 8.0, "accuracy/module_1": 8.0, "accuracy/module_2": 8.0}
COMMITTED = {"git_commit": "a" * 40, "git_dirty": False}  # of the code that the tests pretend
SPREAD = (-1.0, 0.0, 1.0, 0.5)  # by seed, in percent of each metric


def cell(suite, method="gim", *, seed=0, **changes):
    """A record of a machine that does not name its kind of processor: intervals decide."""
    record = begun(tiny_cell(suite, method, seed=seed), tiny_bench(suite))
    of_method = UNTRAINED if method == "random_init" else METRICS
    metrics = {name: x * (1 + SPREAD[seed % 4] / 100) for name, x in of_method.items()}
    provenance = {**record.provenance, **COMMITTED, "finished_at": "2026-11-21T10:00:00"}
    del provenance["cpu_identity"]
    done = {"status": Status.DONE, "metrics": metrics, "provenance": provenance}
    return replace(record, **(done | changes))


def cells(suite, *, seeds=(0, 1, 2), methods=("gim", "random_init")):
    return [cell(suite, method, seed=seed) for method in methods for seed in seeds]


def moved(records, metric, *, factor=1.0, by=0.0, method="gim"):
    """The records with a metric of one method that is no longer what it was."""
    return [
        replace(r, metrics={**r.metrics, metric: r.metrics[metric] * factor + by})
        if r.method == method
        else r
        for r in records
    ]


def changed(records, **facts):
    """The records with other provenance."""
    return [replace(r, provenance={**r.provenance, **facts}) for r in records]


def reference_of(records, *, suite, reason="the tests"):
    return new_reference(records, suite=suite, reason=reason, previous=None)


def audited(record, isolation):
    """The record, saying how far each loss reaches."""
    return replace(record, isolation=isolation)
