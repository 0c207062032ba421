"""The commands `status` and `cancel`: which cells are done, who works at the others, and their end.

Both read records, claims and Slurm's queue. No process has to stay for them.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gim_bench import registry
from gim_bench.cli.launch import job_name
from gim_bench.cli.options import (
    RUNS_DIR,
    DataOption,
    MethodOption,
    RunsDirOption,
    SeedsOption,
    SetOption,
    SuiteOption,
)
from gim_bench.cli.results import records_of
from gim_bench.errors import ConfigError, unknown_name
from gim_bench.records.claims import owner_of, seems_held
from gim_bench.records.record import Record, Status
from gim_bench.records.statistics import finished_at, latest_attempts
from gim_bench.system import slurm
from gim_bench.system.streams import show

if TYPE_CHECKING:
    from gim_bench.records.folder import RunsFolder
    from gim_bench.settings.schema import Suite

WAITING = "waiting"


def status(
    suite: SuiteOption,
    method: MethodOption = None,
    seeds: SeedsOption = None,
    set_: SetOption = None,
    data: DataOption = None,
    runs_dir: RunsDirOption = RUNS_DIR,
) -> None:
    """Say which cells of a suite are done, failed, running or waiting, and by whom."""
    from gim_bench.records.folder import RunsFolder
    from gim_bench.settings.suites import load_suite

    loaded = load_suite(suite, overrides=set_ or ())
    records = _current(records_of(loaded, runs_dir, data=data))
    latest = {(each.method, each.seed): each for each in latest_attempts(records)}
    known = {*registry.methods(), *loaded.method, *(name for name, _ in latest)}
    for name in method or ():
        if name not in known:
            raise ConfigError(unknown_name("method", name, known=known, where="--method"))
    if not runs_dir.is_dir():
        line = f"no folder {runs_dir}: name the folder of the records with --runs-dir"
        print(line, file=sys.stderr)
    cells = [(m, s) for s in range(seeds or loaded.seeds) for m in method or loaded.methods]
    cells += [] if method or seeds else sorted(set(latest) - set(cells))
    runs = RunsFolder(runs_dir)
    counts: Counter[str] = Counter()
    for name, seed in cells:
        state, more = _state(latest.get((name, seed)), runs)
        counts[state] += 1
        show(f"{f'{name} seed {seed}':<28} {state:<9} {more}".rstrip())
    show(f"{len(cells)} cells: {', '.join(f'{n} {state}' for state, n in counts.items())}")
    for line in _queue(loaded, runs_dir):
        show(line)


def cancel(suite: SuiteOption, runs_dir: RunsDirOption = RUNS_DIR) -> None:
    """End the Slurm jobs of a suite; cells under way keep their checkpoints."""
    from gim_bench.records.folder import RunsFolder
    from gim_bench.settings.suites import load_suite

    loaded = load_suite(suite)
    queued = _queued(loaded, runs_dir)
    for job in queued:
        slurm.cancel(job)
        show(f"cancelled Slurm job {job}")
    if not queued:
        show(f"no Slurm job of suite {loaded.name} from {runs_dir} is queued or running")
    runs = RunsFolder(runs_dir)
    for record in runs.records(loaded.name):
        folder = runs.folder_of(record)
        owner = owner_of(folder)
        if owner is not None and not queued and seems_held(folder):
            show(
                f"{record.method} seed {record.seed} is run by process {owner.pid} on "
                f"{owner.host}, which is no Slurm job of this folder: end it there"
            )


def _current(records: Sequence[Record]) -> list[Record]:
    """The records of today's results version; a line on standard error counts the others."""
    from gim_bench import RESULTS_VERSION

    current = [r for r in records if r.provenance.get("results_version") == RESULTS_VERSION]
    if others := len(records) - len(current):
        print(
            f"left out: {others} record(s) of another results version than {RESULTS_VERSION}; "
            f"run runs their cells again",
            file=sys.stderr,
        )
    return current


def _state(record: Record | None, runs: "RunsFolder") -> tuple[str, str]:
    """State of a cell in a word, and what more there is to say."""
    if record is None:
        return WAITING, ""
    folder = runs.folder_of(record)
    owner = owner_of(folder)
    if owner is not None and seems_held(folder):
        return "running", f"process {owner.pid} on {owner.host}"
    match record.status:
        case Status.DONE:
            return "done", finished_at(record)
        case Status.FAILED:
            return "failed", record.error or ""
        case Status.RUNNING:
            return "stopped", "the next run resumes it"


def _queue(suite: "Suite", runs_dir: Path) -> Iterator[str]:
    """A line for each Slurm job that is queued or running."""
    try:
        queued = _queued(suite, runs_dir)
    except ConfigError as error:  # a laptop that looks on
        yield f"Slurm's queue is not seen from here: {error}"
        return
    for job, states in queued.items():
        yield f"Slurm job {job}: {', '.join(f'{n} {state}' for state, n in states.items())}"


def _queued(suite: "Suite", runs_dir: Path) -> Mapping[str, Counter[str]]:
    """States of the tasks of each job that was submitted from this folder and has not ended.

    Raises: ConfigError.
    """
    jobs: Sequence[str] = slurm.submitted(runs_dir / suite.name / "slurm")
    return slurm.states(jobs, name=job_name(suite.name)) if jobs else {}
