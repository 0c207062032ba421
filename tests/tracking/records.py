"""Records to mirror, and the runs of a store as MLflow's own client reads them."""

import hashlib

from gim_bench.records.patches import Picture, sha256
from gim_bench.records.record import Record, Status

EXPERIMENT = "gim_bench/quickstart"
START, END = 1_793_527_200_000, 1_793_527_260_000  # 2026-11-01T10:00 and 10:01 UTC, milliseconds


SWEPT = {
    "trials": 3,
    "decades_within_one_point": 1.0,
    "best": {
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "validation_accuracy": 71.0,
        "test_accuracy": 69.0,
    },
    "paper": {
        "learning_rate": 0.001,
        "weight_decay": 0.0,
        "validation_accuracy": 70.0,
        "test_accuracy": 68.0,
    },
    "curve": [
        {
            "learning_rate": rate,
            "weight_decay": 0.0,
            "validation_accuracy": accuracy,
            "validation_loss": loss,
        }
        for rate, accuracy, loss in ((1e-3, 70.0, 1.5), (1.0, 5.0, None), (1e-2, 71.0, 1.4))
    ],
}


def key_of(method, seed):
    return hashlib.sha256(f"{method} {seed}".encode()).hexdigest()


def picture(content):
    """The facts of a picture of one patch."""
    return Picture(
        file="module_1.png",
        sha256=sha256(content),
        module="module_1",
        neurons=(0,),
        patches=1,
        size=(8, 8),
        places=(((0, 0),),),
    )


def cell(method="gim", *, seed=0, accuracy=60.0, **changes):
    return Record(
        **{
            "suite": "quickstart",
            "method": method,
            "dataset": "photos",
            "seed": seed,
            "key": key_of(method, seed),
            "status": Status.DONE,
            "metrics": {"accuracy": accuracy, "accuracy/module_1": 55.5},
            "config": {
                "method": {
                    "name": method,
                    "objective": "info_nce",
                    "gradient_flow": "isolated",
                    "trains_on": "unlabelled",
                },
                "encoder": {"width": 8, "blocks": [1, 1, 1]},
                "device": "cpu",
            },
            "provenance": {
                "git_commit": "abcdef",
                "git_dirty": False,
                "data_sha256": "0123",
                "cpu": "A CPU",
                "device": "cpu",
                "started_at": "2026-11-01T10:00:00+00:00",
                "finished_at": "2026-11-01T10:01:00+00:00",
            },
            "protocol": "linear probe",
            "losses": [
                {"epoch": e, "module_1": 3.0 / e, "module_2": 2.5 / e} for e in (1.0, 2.0, 3.0)
            ],
            "probe_curves": {"module_1": [[0.1, 70.0], [0.01, 65.0]]},
        }
        | changes
    )


def runs(tracker, wanted="", *, experiment=EXPERIMENT, deleted=False):
    """The active runs, read through a client of their own; with `deleted`, all."""
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(tracking_uri=tracker.uri)
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    number = client.get_experiment_by_name(experiment).experiment_id
    return client.search_runs([number], wanted, run_view_type=view)


def history(tracker, run, name):
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=tracker.uri).get_metric_history(run.info.run_id, name)
    return [(metric.step, metric.value) for metric in sorted(found, key=lambda m: m.step)]
