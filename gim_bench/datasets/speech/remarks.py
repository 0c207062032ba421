"""Recordings that are not what their speaker said: channels that cancel, clipping, silence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from jaxtyping import Float

from gim_bench.datasets.walk import Reason, count

CANCELLING = Reason(
    "recording averages to silence (its channels cancel)",
    "recordings average to silence (their channels cancel)",
)
CLIPPED = Reason("clipped recording", "clipped recordings")
SILENT = Reason("silent recording", "silent recordings")
SHORT = Reason("recording shorter than 0.1 s", "recordings shorter than 0.1 s")

# Unrelated channels keep 1/√channels of their level when averaged, channels in phase all of it.
CANCELLED_LEVEL = 0.1
CLIPPED_SHARE = 0.01  # recordings at full level touch the limit with a few samples
LARGEST = 1 - 2**-15  # of 16 bits, where full scale is 1
SILENT_RANGE = 2 * 2**-15  # dither of 16 bits
SHORT_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A kind of fault that a recording has, and how much of it."""

    kind: Reason
    share: float = 0.0  # of the samples


Tell = Callable[[Remark], None]


def remarks_on(channels: Float[np.ndarray, "sample channel"], *, rate_hz: int) -> list[Remark]:
    """Faults of the samples of a file, of which 1 is full scale; none without samples."""
    if not channels.size:
        return []
    mean, found = channels.mean(axis=1), list[Remark]()
    if _level(mean) < CANCELLED_LEVEL * _level(channels):
        found.append(Remark(kind=CANCELLING))
    elif np.ptp(mean) <= SILENT_RANGE:
        found.append(Remark(kind=SILENT))
    if (share := float((np.abs(channels) >= LARGEST).mean())) >= CLIPPED_SHARE:
        found.append(Remark(kind=CLIPPED, share=share))
    if len(channels) < SHORT_SECONDS * rate_hz:
        found.append(Remark(kind=SHORT))
    return found


def _level(samples: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.square(samples, dtype=np.float64).mean()))


class Remarks:
    """Remarks on the files of a data set, by the files' names; threads may add to them."""

    def __init__(self) -> None:
        self._by_name = dict[str, list[Remark]]()
        self._lock = Lock()

    def about(self, name: str) -> Tell:
        """A function that takes remarks on the file of that name."""

        def tell(remark: Remark) -> None:
            with self._lock:
                self._by_name.setdefault(name, []).append(remark)

        return tell

    def lines(self) -> list[str]:
        """A line for each kind of fault: the number of files, and the worst of them."""
        return [line for kind in (CANCELLING, SILENT, CLIPPED, SHORT) if (line := self._of(kind))]

    def _of(self, kind: Reason) -> str:
        shares: Mapping[str, float] = {
            name: remark.share
            for name, remarks in self._by_name.items()
            for remark in remarks
            if remark.kind is kind
        }
        names: Sequence[str] = sorted(shares, key=lambda name: (-shares[name], name))
        if not names:
            return ""
        share = f" ({100 * shares[names[0]]:.0f} % of its samples clipped)"
        return count(kind, names) + (share if kind is CLIPPED else "")
