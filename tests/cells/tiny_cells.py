"""Names of metrics, first learners and records as they are read, for the tests of tiny cells."""

import json
from dataclasses import replace
from typing import Literal

import torch

from gim_bench.cells.build import build
from gim_bench.encoders.resnet import ResNetEncoder, ResNetSettings

PROBES = ("accuracy", "ridge_accuracy", "knn_accuracy")

SPEECH_PROBES = {
    "speaker": ("speaker_accuracy", "speaker_ridge_accuracy", "speaker_knn_accuracy"),
    "phone": ("phone_accuracy",),
}


def probe_names(modules=2, *, of=PROBES):
    places = ["", *(f"/module_{m + 1}" for m in range(modules))]
    return {f"{name}{place}" for name in of for place in places} | {
        "probe/seconds",
        "memory/probe_host_peak_bytes",
        "memory/probe_host_over_baseline_bytes",
    }


TRAINING = {
    "train/seconds",
    "train/steps",
    "train/samples",
    "train/samples_per_second",
    "train/step_per_calibration",
    "train/parameters",
    "train/labels",
    "train/operations",
    "memory/host_peak_bytes",
    "memory/host_over_baseline_bytes",
}


def speech_names(modules):
    """The names of the metrics of the probes of a cell on speech."""
    of = [name for names in SPEECH_PROBES.values() for name in names]
    return probe_names(modules, of=of)


def as_read(record):
    """The record with lists for tuples, as JSON gives it back."""
    plain = json.loads(json.dumps(record.as_dict()))
    names = ("metrics", "config", "provenance", "losses", "probe_curves", "isolation")
    return replace(record, **{name: plain[name] for name in names})


def built(cell, bench):
    """The first learner of a cell."""
    return build(cell, bench, target=bench.targets[0])


def same(one, other):
    """For each weight of both encoders: whether it is the same in both."""
    assert one.keys() == other.keys()
    return [torch.equal(one[name], other[name]) for name in one]


class NormedSettings(ResNetSettings):
    """Settings of an encoder with batch norm."""

    kind: Literal["normed"]


class Normed(ResNetEncoder):
    """An encoder that says of itself that it has batch norm."""

    Options = NormedSettings

    @classmethod
    def examples_are_independent(cls, options):
        return False
