"""Records that somebody could have sent, and a site of them; nothing is trained."""

import hashlib
from dataclasses import replace

from gim_bench.records.folder import RunsFolder
from gim_bench.site.submissions import read_submission
from tests.report.cells import cell, provenance

MACHINE = {
    "cpu_identity": "vendor_id A, AVX2",
    "cores": 2,
    "threads": 1,
    "results_version": 5,
    "precision": "fp32",
}
ELSEWHERE = MACHINE | {"cpu_identity": "vendor_id B, AVX512"}


def sent(method="gim", *, seed=0, accuracy=60.0, loss=2.0, facts=MACHINE, **changes):
    """A finished record with two accuracies, a loss and a time."""
    metrics = {
        "accuracy": accuracy,
        "accuracy/module_1": 50.0 + seed,
        "loss": loss,
        "train/seconds": 9.0,
    }
    key = hashlib.sha256(f"{method} {seed}".encode()).hexdigest()
    return replace(
        cell(method, seed=seed, metrics=metrics, key=key),
        **{"provenance": provenance(**facts), **changes},
    )


def seeds(accuracies, *, facts=MACHINE):
    """A record for each accuracy, seed by seed."""
    return [
        sent(seed=n, accuracy=a, loss=2 + n / 100, facts=facts) for n, a in enumerate(accuracies)
    ]


def submission_of(records, *, root):
    """The submission of these records, written to `root`."""
    for record in records:
        RunsFolder(root).save(record)
    return read_submission(root, suite="quickstart")
