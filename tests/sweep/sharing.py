"""The command of a process that works at a study, with arguments URL TRIALS FOLDER PROCESSES.

It leaves a file in FOLDER when it has claimed its first trials, and goes on once as many processes
have; its last line says how many trials it evaluated.
"""

import os
import sys
import time
from pathlib import Path

from gim_bench.probing.linear import Tried
from gim_bench.progress import Silence
from gim_bench.sweep.probe_rates import BATCH, GRID, outcome, space
from gim_bench.sweep.studies import SharedStudy, Studies

POINTS = [{"learning_rate": rate} for rate in GRID]


def tried(params):
    """The best rate is the highest."""
    return [
        Tried(hyperparameter=p["learning_rate"], accuracy=50 + 50 * p["learning_rate"], loss=1.0)
        for p in params
    ]


def complete(study: SharedStudy, trials: int, evaluate=tried) -> None:
    study.complete(
        trials,
        lambda claimed: [outcome(x) for x in evaluate([trial.params for trial in claimed])],
        points=POINTS,
        space=space(GRID, hyperparameter="learning_rate", weight_decay=False),
        batch=BATCH,
        advance=Silence().advance,
    )


def main() -> None:
    url, trials, folder, processes = sys.argv[1:]
    evaluated = 0

    def evaluate(params):
        nonlocal evaluated
        (Path(folder) / str(os.getpid())).touch()
        while len(list(Path(folder).iterdir())) < int(processes):
            time.sleep(0.02)
        evaluated += len(params)
        return tried(params)

    complete(Studies(url).open("study", {}), int(trials), evaluate)
    sys.stdout.write(f"{evaluated}\n")
