"""Every metric that a record may hold, with its unit and the better direction.

The metric of one module ends in "/module_<k>"; the bare name belongs to the top module. The metric
of one of the processes that share a batch ends in "/process_<k>".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from gim_bench.errors import ConfigError, unknown_name

NATS = "nats"
OF_OBJECTIVE = "unit of the objective"  # the method's objective declares the unit of its loss


class Better(StrEnum):
    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    unit: str
    better: Better
    meaning: str


# Targets whose metrics have a prefix. The metrics of an image's class have no prefix.
TARGETS = ("phone", "speaker")


MEMORY = (
    Metric("host_peak_bytes", "bytes", Better.LOWER, "peak resident memory"),
    Metric(
        "host_over_baseline_bytes",
        "bytes",
        Better.LOWER,
        "peak resident memory, less the resident memory before",
    ),
    Metric("gpu_allocated_peak_bytes", "bytes", Better.LOWER, "PyTorch's allocated peak"),
    Metric(
        "gpu_allocated_over_baseline_bytes",
        "bytes",
        Better.LOWER,
        "PyTorch's allocated peak, less all that was allocated before but the learner",
    ),
    Metric("gpu_reserved_peak_bytes", "bytes", Better.LOWER, "PyTorch's reserved peak"),
    Metric("gpu_process_peak_bytes", "bytes", Better.LOWER, "NVML's peak, this process"),
    Metric(
        "gpu_process_over_baseline_bytes",
        "bytes",
        Better.LOWER,
        "NVML's peak of this process, less its memory before",
    ),
    Metric(
        "gpu_context_bytes",
        "bytes",
        Better.LOWER,
        "NVML's memory of this process before, less what PyTorch had reserved",
    ),
)


def _of_every_target(*metrics: Metric) -> Iterator[Metric]:
    """Each metric without a prefix, then with the prefix of each target: "phone_accuracy"."""
    for prefix in ("", *(f"{target}_" for target in TARGETS)):
        for metric in metrics:
            yield replace(metric, name=f"{prefix}{metric.name}")


# Updates of the worker below between its making of a batch and of the newest one; of the batches
# that the worker below made while it still trained.
STALENESS = tuple(
    Metric(f"staleness_{which}", "updates", Better.LOWER, f"{meaning} of a batch in use")
    for which, meaning in (
        ("mean", "mean staleness"),
        ("median", "median staleness"),
        ("p90", "staleness, 90th percentile,"),
        ("max", "largest staleness"),
    )
)


def _within(prefix: str, about: str, *metrics: Metric) -> Iterator[Metric]:
    """Each metric under a prefix, with what it is about."""
    for metric in metrics:
        meaning = f"{metric.meaning}; {about}"
        yield replace(metric, name=f"{prefix}{metric.name}", meaning=meaning)


METRICS = {
    metric.name: metric
    for metric in (
        *_of_every_target(
            Metric(
                "accuracy",
                "%",
                Better.HIGHER,
                "linear probe, its hyperparameter chosen on validation",
            ),
            Metric("accuracy/own_head", "%", Better.HIGHER, "a supervised method's own classifier"),
            Metric("ridge_accuracy", "%", Better.HIGHER, "ridge regression in closed form"),
            Metric("knn_accuracy", "%", Better.HIGHER, "nearest neighbours by cosine similarity"),
            Metric(
                "unconverged", "probes", Better.LOWER, "linear probes that ran out of iterations"
            ),
            Metric("loss", OF_OBJECTIVE, Better.LOWER, "training loss, mean of the last epoch"),
            Metric(
                "uninformed_loss",
                OF_OBJECTIVE,
                Better.LOWER,
                "loss of a predictor without information",
            ),
            Metric(
                "validation_loss",
                OF_OBJECTIVE,
                Better.LOWER,
                "loss of the held-out examples, at the end",
            ),
        ),
        Metric("train/seconds", "s", Better.LOWER, "wall time of training"),
        Metric("train/steps", "steps", Better.LOWER, "optimiser steps taken"),
        Metric("train/samples", "examples", Better.LOWER, "examples seen, counted at each visit"),
        Metric(
            "train/labels",
            "labels",
            Better.LOWER,
            "labelled examples of the split, held out or not, once for each target",
        ),
        Metric(
            "train/parameters", "parameters", Better.LOWER, "parameters trained, heads included"
        ),
        Metric(
            "train/operations",
            "FLOP",
            Better.LOWER,
            "operations of all steps, forward and backward, without the optimiser's",
        ),
        Metric(
            "train/flops",
            "FLOP",
            Better.LOWER,
            "in earlier records: operations without the gradients of the losses' own heads",
        ),
        Metric(
            "train/kept_bytes",
            "bytes",
            Better.LOWER,
            "outputs of frozen modules on disk, the most at a time",
        ),
        Metric("train/samples_per_second", "1/s", Better.HIGHER, "training speed"),
        Metric(
            "train/step_per_calibration",
            "ratio",
            Better.LOWER,
            "time of a step, divided by the time of a fixed convolution and matrix product",
        ),
        Metric(
            "selection/seconds",
            "s",
            Better.LOWER,
            "wall time of training and probing only to choose the probes' hyperparameters",
        ),
        Metric("probe/seconds", "s", Better.LOWER, "wall time of feature extraction and probes"),
        Metric(
            "energy/gpu_joules", "J", Better.LOWER, "energy of the whole GPU in training, by NVML"
        ),
        Metric(
            "energy/cpu_joules",
            "J",
            Better.LOWER,
            "energy of the machine's processor packages in training, by RAPL",
        ),
        *_within("memory/", "training", *MEMORY),
        *_within("memory/probe_", "probes", *MEMORY),
        Metric("pipeline/workers", "processes", Better.LOWER, "processes that trained the units"),
        *_within(
            "pipeline/",
            "of the worker with that module on top",
            Metric("idle_share", "ratio", Better.LOWER, "share of its time spent waiting"),
            Metric(
                "seconds_without_batch", "s", Better.LOWER, "time of waiting for the worker below"
            ),
            Metric(
                "seconds_without_room", "s", Better.LOWER, "time of waiting for the worker above"
            ),
            Metric("bytes_per_sample", "bytes", Better.LOWER, "bytes handed on for every example"),
            *STALENESS,
            Metric("uses_per_batch", "uses", Better.LOWER, "mean uses of a batch that was used"),
            Metric("uses_of_a_batch_max", "uses", Better.LOWER, "uses of the batch used most"),
            Metric(
                "dropped_share", "ratio", Better.LOWER, "share of batches unused by the last step"
            ),
            Metric(
                "after_below_share",
                "ratio",
                Better.LOWER,
                "share of uses of batches made after the worker below had taken its last step",
            ),
            *MEMORY,
        ),
        Metric(
            "data_parallel/processes", "processes", Better.LOWER, "processes that shared each batch"
        ),
        *_within("data_parallel/", "of the process with that number", *MEMORY),
        Metric(
            "memory/largest_batch",
            "images or windows per batch",
            Better.HIGHER,
            "largest training batch that fits into the GPU's memory",
        ),
    )
}


def describe(name: str) -> Metric:
    """The metric called `name`, with or without "/module_<k>" or "/process_<k>".

    Raises: ConfigError for an unknown name.
    """
    metric = METRICS.get(re.sub(r"/(module|process)_\d+$", "", name))
    if metric is None:
        raise ConfigError(unknown_name("metric", name, known=METRICS))
    return metric


def unit_of(name: str, config: Mapping[str, Any]) -> str:
    """The unit of a metric in a cell with this configuration; empty for a loss without a unit.

    Old records without a declared unit hold losses in nats.

    Raises: ConfigError for an unknown name.
    """
    unit = describe(name).unit
    if unit != OF_OBJECTIVE:
        return unit
    return config.get("method", {}).get("loss_unit", NATS) or ""


def hyperparameter_of(config: Mapping[str, Any]) -> str:
    """Name of the hyperparameter of the linear probes of a cell with this configuration.

    Old records name no kind of probe: their probes are Adam's. So are those of a record whose probe
    is no table, as another program may have written it.
    """
    probe = config.get("probe")
    kind = probe.get("kind", "adam") if isinstance(probe, Mapping) else "adam"
    return "learning rate" if kind == "adam" else "L2 penalty"


def target_of(name: str) -> tuple[str, str]:
    """(target, metric): ("speaker", "accuracy") of "speaker_accuracy", ("", "loss") of "loss"."""
    target, _, metric = name.partition("_")
    return (target, metric) if target in TARGETS else ("", name)
