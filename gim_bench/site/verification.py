"""The file `submissions/<who>/<suite>/verified.json`: cells of a submission that ran again.

The file is sealed when it is written. It has the digest of the submission: a submission that
changes later is no longer verified.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, FiniteFloat, TypeAdapter
from pydantic.dataclasses import dataclass as checked

from gim_bench.check.outcome import Outcome
from gim_bench.records.statistics import spans
from gim_bench.seals import sealed, unsealed
from gim_bench.site.submissions import Submission
from gim_bench.system.atomic import write_atomically

VERIFIED = "verified.json"


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


@checked(frozen=True, kw_only=True)
class _Stored:
    """What the file holds."""

    format: Literal[2] = 2
    cells: Annotated[Sequence[Verification], Field(min_length=1)]


class Standing(NamedTuple):
    """Whether a submission is listed, and the reason in one line."""

    listed: bool
    reason: str
    cells: Sequence[Verification] = ()  # of a submission that is listed: those that ran again

    def of_row(self, method: str) -> str:
        """How far the numbers of a method were verified: cells of its own ran again, or others'."""
        own = [cell for cell in self.cells if cell.method == method]
        if not own:
            others = ", ".join(f"{cell.method} seed {cell.cell_seed}" for cell in self.cells)
            return f"no cell of this row; {others} did"
        seeds = ", ".join(spans(cell.cell_seed for cell in own))
        way = "bit for bit" if all(cell.exact for cell in own) else "within tolerance"
        return f"seed {seeds}: {way}, {max(cell.at for cell in own)[:10]}"


_STORED = TypeAdapter(_Stored)


def save_verification(submission: Submission, cells: Sequence[Verification]) -> Path:
    """Write what ran again beside the records; returns the file. Raises: OSError."""
    path = submission.folder / VERIFIED
    table = sealed(asdict(_Stored(cells=cells)))
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
        cells = _STORED.validate_python(unsealed(path.read_bytes())).cells
    except ValueError:  # pydantic's errors are ValueErrors
        return Standing(False, f"the verification was altered or is of another version: {again}")
    if any(cell.submission != submission.digest for cell in cells):
        return Standing(False, f"the records changed since they were verified: {again}")
    if not _is_drawn(cells, submission):
        what = "the cells and numbers that its seed draws from these records"
        return Standing(False, f"the verification is not of {what}: {again}")
    broken = [cell.line for cell in cells if cell.outcome is not Outcome.PASSES]
    if broken:
        return Standing(False, f"refused: {broken[0]}")
    more = len(cells) > 1
    count = f"{len(cells)} of {len(submission.records)} cells ran again: " if more else ""
    return Standing(True, count + "; ".join(cell.line for cell in cells), cells)


def _is_drawn(cells: Sequence[Verification], submission: Submission) -> bool:
    """Whether the cells are those that their seed draws, and the claims those of the records."""
    seed, claims = cells[0].seed, submission.drawn(seed=cells[0].seed, count=len(cells))
    return len(cells) == len(claims) and all(
        (cell.seed, cell.method, cell.cell_seed) == (seed, claim.method, claim.seed)
        and all(number.claimed == claim.metrics.get(number.metric) for number in cell.numbers)
        for cell, claim in zip(cells, claims, strict=True)
    )
