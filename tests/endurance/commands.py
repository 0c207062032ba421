"""Whole commands in processes of their own, and what they leave on disk."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from gim_bench.records.folder import RunsFolder
from tests.forked import Command

ROOT = Path(__file__).parents[2]


def environment(folder):
    """The variables of a command in that folder; plug-ins on the caller's PYTHONPATH are found."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
        "OMP_NUM_THREADS": "1",
        "GIM_BENCH_CACHE": str(folder / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }


def fork(folder, *arguments):
    """A process of the command line in that folder, which has imported its libraries already."""
    return Command(folder, *arguments, variables=environment(folder))


def begin(folder, *arguments, **options):
    """A process of the command line in that folder, as users start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "gim_bench", *arguments],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process):
    """(exit code, standard error) of a process that is not to hang."""
    _, err = process.communicate(timeout=3600)
    return process.returncode, err


def records(folder, suite):
    return {(r.method, r.seed): r for r in RunsFolder(folder / "runs").records(suite)}


def results(folder, suite):
    """By cell: what does not depend on the machine's moods, and every weight of the encoder."""
    found = {}
    for cell, record in records(folder, suite).items():
        metrics = {
            name: value
            for name, value in record.metrics.items()
            if "accuracy" in name or "loss" in name
        }
        weights = load_file(RunsFolder(folder / "runs").folder_of(record) / "encoder.safetensors")
        encoder = {name: tensor.tolist() for name, tensor in weights.items()}
        found[cell] = (record.status, metrics, record.losses, record.probe_curves, encoder)
    return found
