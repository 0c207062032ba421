"""The file `submissions/<who>/<suite>/verified.json`: a cell of a submission that ran again.

The file is sealed when it is written. It has the digest of the submission: a submission that
changes later is no longer verified.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from pydantic import FiniteFloat, TypeAdapter
from pydantic.dataclasses import dataclass as checked

from gim_bench.check.outcome import Outcome
from gim_bench.seals import sealed, unsealed
from gim_bench.site.submissions import Submission
from gim_bench.system.atomic import write_atomically

VERIFIED = "verified.json"
FORMAT = 1


@checked(frozen=True, kw_only=True)
class Number:
    """A metric in the record, and as the cell gave it again."""

    metric: str
    claimed: FiniteFloat
    found: FiniteFloat
    tolerated: FiniteFloat  # how far apart the two may be, in the metric's unit; 0: not at all

    @property
    def holds(self) -> bool:
        return abs(self.found - self.claimed) <= self.tolerated


@checked(frozen=True, kw_only=True)
class Verification:
    """How the numbers of one cell of a submission compare with the same cell run again."""

    format: int = FORMAT
    submission: str  # its digest
    seed: int  # of the draw
    method: str  # of the cell
    cell_seed: int
    numbers: Sequence[Number]
    exact: bool  # bit for bit, as machine and versions are the record's; else within tolerances
    commit: str  # of the code that ran the cell again
    machine: str
    at: str  # ISO 8601, UTC

    @property
    def outcome(self) -> Outcome:
        return Outcome.PASSES if all(n.holds for n in self.numbers) else Outcome.WORSE

    @property
    def line(self) -> str:
        """The outcome in one line."""
        cell = f"{self.method} seed {self.cell_seed} ran again on {self.at[:10]} ({self.machine})"
        broken = [n for n in self.numbers if not n.holds]
        if not broken:
            way = "bit for bit" if self.exact else "within the tolerance of check"
            return f"{cell}: {len(self.numbers)} numbers hold {way}"
        worst = max(broken, key=lambda n: abs(n.found - n.claimed) - n.tolerated)
        allowed = f"{worst.tolerated:.3g} is tolerated" if worst.tolerated else "none is tolerated"
        return (
            f"{cell}: {worst.metric} is {worst.found!r}, the record says {worst.claimed!r}, and a "
            f"difference of {allowed}"
        )


class Standing(NamedTuple):
    """Whether a submission is listed, and the reason in one line."""

    listed: bool
    reason: str
    found: Verification | None = None  # of a submission that is listed

    def of_row(self, method: str) -> str:
        """How far the numbers of a method were verified: its own cell ran again, or another's."""
        if self.found is None:
            return self.reason
        cell = f"seed {self.found.cell_seed}"
        if self.found.method != method:
            return f"no cell of this row; {self.found.method} {cell} did"
        way = "bit for bit" if self.found.exact else "within tolerance"
        return f"{cell}: {way}, {self.found.at[:10]}"


_STORED = TypeAdapter(Verification)


def save_verification(submission: Submission, verification: Verification) -> Path:
    """Write the verification beside the records; returns its file. Raises: OSError."""
    path = submission.folder / VERIFIED
    table = sealed(asdict(verification))
    write_atomically(path, (json.dumps(table, indent=2, allow_nan=False) + "\n").encode())
    return path


def standing_of(submission: Submission) -> Standing:
    """Whether the submission, as it is now, was verified. Raises: OSError."""
    path = submission.folder / VERIFIED
    # The page says nothing of the folders of whoever builds the site.
    place = f"{submission.root.parent.name}/{submission.who}"
    again = f"python -m gim_bench verify --submission {place} --suite {submission.suite}"
    if not path.exists():
        return Standing(False, f"waits for {again}")
    try:
        found = _STORED.validate_python(unsealed(path.read_bytes()))
    except ValueError:  # pydantic's errors are ValueErrors
        return Standing(False, f"the verification was altered or is of another version: {again}")
    if found.submission != submission.digest or found.format != FORMAT:
        return Standing(False, f"the records changed since they were verified: {again}")
    if found.outcome is not Outcome.PASSES:
        return Standing(False, f"refused: {found.line}")
    return Standing(True, found.line, found)
