"""Records and a suite to report on, small enough to check by eye."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gim_bench.records.predictions import Predictions
from gim_bench.records.record import Record, Status
from gim_bench.report import render
from gim_bench.settings.schema import Deviation

TRAITS = {
    "gim": ("info_nce", "isolated", "unlabelled"),
    "cpc": ("info_nce", "end_to_end", "unlabelled"),
    "supervised": ("cross_entropy", "end_to_end", "train"),
    "greedy_supervised": ("cross_entropy", "isolated", "train"),
    "random_init": ("none", "none", "none"),
}
TRAINING = {"epochs": 6, "batch_size": 32}


@dataclass(frozen=True)
class Suite:
    name: str = "quickstart"
    protocol: str = "linear probe on frozen features; test set read once"
    published: tuple[str, ...] = ()
    methods: tuple[str, ...] = tuple(TRAITS)
    fresh_process: bool = False
    tuned: str | None = None
    deviations: tuple[Deviation, ...] = ()
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    method: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def options(self) -> str:
        return f"--suite {self.name}"


def describes(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is one that every suite here gives."""
    return config["training"] == TRAINING


def report_on(
    records,
    *,
    suite=None,
    fmt="md",
    metrics=(),
    describes=describes,
    predictions=lambda _: None,
    pictures=lambda _: None,
    results=lambda _: {},
    notes=(),
    settings=None,
):
    """The report, as text; on the suite above unless another is named."""
    return render(
        records,
        suite=suite or Suite(),
        describes=describes,
        fmt=fmt,
        metrics=metrics,
        predictions=predictions,
        pictures=pictures,
        results=results,
        notes=notes,
        settings=settings or {},
    )


def answered(right: Mapping[str, str]) -> Predictions:
    """Predictions of a cell by metric: "1101" answers the third of four test images wrong."""
    images = len(next(iter(right.values())))
    labels = np.arange(images)
    return Predictions(
        labels={"class": labels},
        items={"class": labels},
        predicted={
            name: np.where(np.array(list(marks)) == "1", labels, labels + 1)
            for name, marks in right.items()
        },
    )


def config(method: str, *, epochs: int = 6, options: dict[str, Any] | None = None):
    objective, flow, split = TRAITS.get(method, TRAITS["gim"])
    return {
        "method": {
            "name": method,
            "objective": objective,
            "gradient_flow": flow,
            "trains_on": split,
            "uses_labels": split == "train",
            "options": options or {},
        },
        "dataset": {"name": "photos"},
        "encoder": {"width": 8, "blocks": [1, 1, 1]},
        "training": {"epochs": epochs, "batch_size": 32},
        "device": "cpu",
    }


def provenance(**changes: Any) -> dict[str, Any]:
    return {
        "git_commit": "abcdef0123456789",
        "git_dirty": False,
        "versions": {"torch": "2.12.1"},
        "cpu": "A CPU",
        "threads": 2,
        "device": "cpu",
        "precision": "fp32",
        "data_sha256": "0123456789abcdef" * 4,
        "started_at": "2026-11-01T10:00:00+00:00",
        "finished_at": "2026-11-01T10:01:00+00:00",
    } | changes


def cell(method: str = "gim", *, seed: int = 0, metrics: dict[str, float], **changes: Any):
    return Record(
        **{
            "suite": "quickstart",
            "method": method,
            "dataset": "photos",
            "seed": seed,
            "key": f"{method}{seed}",
            "status": Status.DONE,
            "metrics": metrics,
            "config": config(method),
            "provenance": provenance(),
            "protocol": Suite.protocol,
        }
        | changes
    )
