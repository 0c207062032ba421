"""When a metric is worse: the change exceeds chance, and a floor below which no change matters."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from gim_bench.records.metrics import NATS, target_of
from gim_bench.records.statistics import Summary, summarise

# The chance that a check of unchanged code calls any of its comparisons worse.
FALSE_ALARMS = 0.01
POWER = 0.8
OWN_SHARE = 0.1  # of a comparison's level: for the test with the reference's own spread
# Seeds on both sides together, with two or more in the reference: two degrees of freedom.
FEWEST_SEEDS = 4
MOST_SEEDS = 200  # that a reference is advised to have
HOST_MEMORY = "memory/host_over_baseline_bytes"


class Worse(StrEnum):
    """The direction in which a metric has to move to be worse."""

    LOWER = "lower"
    HIGHER = "higher"
    EITHER = "either way"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Metrics that are judged alike, and the difference below which none of them is worse."""

    name: str
    worse: Worse
    floor: float  # in the metric's unit; of a relative kind, at the least
    share: float = 0.0  # of the reference's mean
    reason: str

    def floor_at(self, mean: float) -> float:
        """The floor, in the metric's unit, where the reference's mean is `mean`."""
        return max(self.floor, self.share * abs(mean))


ACCURACY = Kind(
    name="accuracy",
    worse=Worse.LOWER,
    floor=1.0,
    reason="points: rounding on another processor moves a probe on a few hundred examples so far",
)
LOSS = Kind(
    name="loss",
    worse=Worse.EITHER,
    floor=0.02,
    reason="nats: a wrong row, negative or gradient moves a loss much further",
)
LOSS_OF_OTHER_UNIT = Kind(
    name="loss",
    worse=Worse.EITHER,
    floor=0.0,
    share=0.01,
    reason="1 %: the floor of losses in nats, which lie at about 2, as a share",
)
MEMORY = Kind(
    name="memory",
    worse=Worse.HIGHER,
    floor=4 * 2**20,
    share=0.15,
    reason="15 %, or 4 MiB: allocators round up, and libraries load parts at first use",
)
SPEED = Kind(
    name="speed",
    worse=Worse.HIGHER,
    floor=0.0,
    share=0.50,
    reason="50 %: shared machines slow a step and the calibration down by different factors",
)
COSTS = (MEMORY, SPEED)

KINDS = {
    "accuracy": ACCURACY,
    "loss": LOSS,
    HOST_MEMORY: MEMORY,
    "memory/gpu_allocated_peak_bytes": MEMORY,
    "memory/gpu_reserved_peak_bytes": MEMORY,
    "train/step_per_calibration": SPEED,
}


def kind_of(name: str, *, unit: str = NATS) -> Kind | None:
    """How a metric is judged, of whatever module and target; None for a metric that is not judged.

    `unit` is the unit of the loss, where the metric is a loss.
    """
    kind = KINDS.get(target_of(re.sub(r"/module_\d+$", "", name))[1])
    return LOSS_OF_OTHER_UNIT if kind is LOSS and unit != NATS else kind


def compared(names: Iterable[str]) -> list[str]:
    """The metrics of a record that are judged, each thing once.

    The bare name is the top module's, whose numbered name is left out; a GPU's memory stands for
    the host's.
    """
    judged = [name for name in names if kind_of(name) is not None]
    on_gpu = any(name.startswith("memory/gpu_") for name in judged)
    tops = set()
    for bare in judged:
        modules = [name for name in judged if name.startswith(f"{bare}/module_")]
        tops.add(max(modules, key=lambda name: int(name.rpartition("_")[2]), default=""))
    return [name for name in judged if name not in tops and not (on_gpu and name == HOST_MEMORY)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The means of reference and new seeds, and how far apart the two may be."""

    reference: Summary
    now: Summary
    tolerance: float  # in the metric's unit, as the two below
    detectable: float  # the smallest true change that is noticed with about 80 % power
    worse: bool

    @property
    def difference(self) -> float:
        return self.now.mean - self.reference.mean


def enough(reference: int, now: int) -> bool:
    """Whether that many seeds can be compared: two and two, or three and one."""
    return reference >= 2 and now >= 1 and reference + now >= FEWEST_SEEDS


def compare(
    reference: Sequence[float], now: Sequence[float], *, kind: Kind, level: float
) -> Difference:
    """Student's two-sample test with two estimates of the variance, and the kind's floor.

    Worse is a difference of means, in the kind's direction, that exceeds the floor and the standard
    errors of one of two tests: t(1 - 0.9 level; n + m - 2) of the pooled variance, or
    t(1 - 0.1 level; n - 1) of the reference's own. The first has more degrees of freedom; but a new
    seed that is broken widens it, however far off that seed is, and the second it does not. A loss
    may move either way: each direction has half of the level. Pooling is right where nothing has
    changed, and false alarms are about that case; unlike Welch's test both take a single new seed.
    Seeds are not paired: a seed repeats bit for bit on one machine alone.

    Worked by hand: 60, 61, 62 against 50, 51, 52 at a level of 1 %. Both variances are 1, so the
    standard error is √(1/3 + 1/3) = 0.816, t(0.991; 4) = 3.871 and the tolerance 3.16, which
    t(0.999; 2) = 22.33 does not lower; the difference is 10.

    The detectable change has a power of about 80 % by the noncentral t distribution if the true
    spread is the observed one, and clears the floor as often.
    """
    assert enough(len(reference), len(now))
    before, after = summarise(reference), summarise(now)
    squares = sum((x - before.mean) ** 2 for x in reference) + sum(
        (x - after.mean) ** 2 for x in now
    )
    spread = math.sqrt(squares / (before.n + after.n - 2))
    reach = reach_of(
        spread, before.n, after.n, own=before.std, mean=before.mean, kind=kind, level=level
    )
    moved = {
        Worse.LOWER: before.mean - after.mean,
        Worse.HIGHER: after.mean - before.mean,
        Worse.EITHER: abs(after.mean - before.mean),
    }[kind.worse]
    return Difference(
        reference=before,
        now=after,
        tolerance=reach.tolerance,
        detectable=reach.detectable,
        worse=moved > reach.tolerance,
    )


class Reach(NamedTuple):
    """The change that a comparison tolerates, and the smallest true change that it notices."""

    tolerance: float  # in the metric's unit
    detectable: float  # with about 80 % power


def reach_of(
    spread: float,
    reference: int,
    now: int,
    *,
    own: float | None = None,
    mean: float,
    kind: Kind,
    level: float,
) -> Reach:
    """The reach of a comparison of so many seeds, where one seed has the standard deviation.

    `spread` is the pooled one and `own` the reference's, by default the same; `mean` is the
    reference's. `compare` states the tests.
    """
    from scipy.special import nctdtrinc, ndtri, stdtrit

    side = level / 2 if kind.worse is Worse.EITHER else level
    floor = kind.floor_at(mean)
    reaches = []
    for std, freedom, share in (
        (spread, reference + now - 2, 1 - OWN_SHARE),
        (own or spread, reference - 1, OWN_SHARE),
    ):
        error = std * math.sqrt(1 / reference + 1 / now)
        critical = float(stdtrit(freedom, 1 - share * side))
        noticed = float(nctdtrinc(freedom, 1 - POWER, critical)) * error
        detectable = max(noticed, floor + float(ndtri(POWER)) * error)
        reaches.append(Reach(tolerance=max(critical * error, floor), detectable=detectable))
    return Reach(*map(min, zip(*reaches, strict=True)))


def seeds_to_see(
    change: float, *, spread: float, now: int | None, kind: Kind, level: float
) -> int | None:
    """The fewest seeds of a reference against which a true change is noticed with 80 % power.

    `now` is the number of new seeds; None: as many as the reference has. The answer is None where
    MOST_SEEDS do not suffice. `kind` has an absolute floor.
    """
    for n in range(2, MOST_SEEDS + 1):
        m = n if now is None else now
        if enough(n, m):
            reach = reach_of(spread, n, m, mean=0.0, kind=kind, level=level)
            if reach.detectable <= change:
                return n
    return None
