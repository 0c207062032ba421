"""The outcomes of a check, and the exit codes that they have."""

from enum import StrEnum


class Outcome(StrEnum):
    PASSES = "passes"
    WORSE = "worse"
    UNJUDGED = "cannot judge"


EXIT_CODES = {Outcome.PASSES: 0, Outcome.WORSE: 1, Outcome.UNJUDGED: 3}
