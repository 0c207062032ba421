"""Records of others: `submissions/<who>/<suite>/<method>/seed-<n>-<key8>/record.json`.

A submission is all that one person sends of one suite. Nothing but its records is read.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gim_bench.cells.resolve import describer
from gim_bench.errors import ConfigError
from gim_bench.records.folder import RECORD, RunsFolder
from gim_bench.records.record import Record, Status
from gim_bench.records.sealed import read_record
from gim_bench.records.statistics import origin_of
from gim_bench.seals import digest, sha256_of
from gim_bench.settings.schema import Suite

WHO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The finished records that one person sends of one suite."""

    who: str
    suite: str
    root: Path  # submissions/<who>, which is laid out as a folder of runs
    records: Sequence[Record]  # sorted by path
    digest: str  # sha256 over the places and the contents of all records

    @property
    def folder(self) -> Path:
        return self.root / self.suite

    @property
    def name(self) -> str:
        return f"{self.who}/{self.suite}"

    def path_of(self, record: Record) -> Path:
        """The file of a record."""
        return RunsFolder(self.root).folder_of(record) / RECORD

    def drawn(self, *, seed: int, count: int = 1) -> list[Record]:
        """The records of the cells that run again: drawn by `seed` and the submission's digest.

        Whoever changes a record changes the draw. Whoever does not know the seed cannot try
        changes until the draw spares them. More cells are drawn beside those of a smaller count.
        """
        draw = random.Random(f"{seed} {self.digest}")
        first = draw.choice(self.records)
        others = [record for record in self.records if record is not first]
        return [first, *draw.sample(others, min(count - 1, len(others)))]


class Refused(NamedTuple):
    """A submission that does not count, by its first file at fault, and the reason in one line."""

    path: Path
    reason: str
    who: str
    suite: str
    cells: int

    @property
    def line(self) -> str:
        return f"refused: {self.path}: {self.reason}"


def submissions_in(root: Path) -> tuple[list[Submission], list[Refused]]:
    """All submissions below `root`, by person and suite, and those that are refused.

    Raises: ConfigError if there is no such folder.
    """
    if not root.is_dir():
        raise ConfigError(f"no folder of submissions {root}: name it with --submissions")
    found: list[Submission] = []
    refused: list[Refused] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for suite in RunsFolder(folder).suites():
            match read_submission(folder, suite=suite):
                case Submission() as submission:
                    found.append(submission)
                case fault:
                    refused.append(fault)
    return found, refused


def read_submission(root: Path, *, suite: str) -> Submission | Refused:
    """The submission of a suite in `submissions/<who>`, or the reason why it is refused.

    One record that is altered, unfinished, in the wrong folder or of other data has all of them
    refused: a submission is verified as a whole.

    Raises: ConfigError without any record of the suite.
    """
    paths = RunsFolder(root).files(suite)
    if not paths:
        raise ConfigError(
            f"no record of suite {suite!r} in {root}: a submission is "
            f"<who>/<suite>/<method>/seed-<n>-<key>/{RECORD}, as run leaves it"
        )
    records = [read_record(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        for reason in _faults(path, record, first=records[0], root=root, suite=suite):
            return Refused(path, reason, who=root.name, suite=suite, cells=len(paths))
    contents = {path.relative_to(root).as_posix(): sha256_of(path) for path in paths}
    return Submission(
        who=root.name,
        suite=suite,
        root=root,
        records=[record for record in records if record is not None],
        digest=digest(contents),
    )


def misfit(submission: Submission, suite: Suite) -> Refused | None:
    """The submission as refused for its first record of other settings; None if all fit the suite.

    Raises: ConfigError where the suite is wrong.
    """
    describes = describer(suite)
    for record in submission.records:
        if record.protocol != suite.protocol or not describes(record.config):
            return Refused(
                submission.path_of(record),
                f"its settings or its protocol are not those of suite {suite.name!r}: send cells "
                f"of the suite as it is",
                who=submission.who,
                suite=submission.suite,
                cells=len(submission.records),
            )
    return None


def _faults(
    path: Path, record: Record | None, *, first: Record | None, root: Path, suite: str
) -> Iterator[str]:
    if not WHO.fullmatch(root.name):
        yield "the folder of a submission is named by letters, digits, dots, dashes and underscores"
    if record is None:
        yield "the record was altered or cut off since it was written, or is of another version"
        return
    if record.suite != suite or RunsFolder(root).folder_of(record) / RECORD != path:
        yield f"the record is of {record.suite} {record.method} seed {record.seed}: keep its folder"
    if record.status is not Status.DONE:
        yield f"the cell is {record.status}: send finished cells"
    if first is not None and origin_of(record) != origin_of(first):
        yield (
            "the record is of other data, or of another results version, than the first: send "
            "cells of one mean"
        )
