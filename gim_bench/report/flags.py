"""Flags of runs that diverged or still learn, or whose probes did not converge.

Their accuracy says little about the method.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from gim_bench.records.metrics import TARGETS, target_of, unit_of
from gim_bench.records.record import Record
from gim_bench.records.statistics import spans
from gim_bench.report.document import Block, Bullets

STILL_LEARNING = 0.02  # share of everything learnt that the last epoch brought
DIVERGED = 1.1  # times the loss of a predictor without information
RULE = (
    f"A run is flagged where a module's loss, as mean of the last epoch, is above the loss of a "
    f"predictor without information (it diverged where that is more than a tenth above, else it "
    f"learnt nothing), or where the last epoch brought more than "
    f"{STILL_LEARNING:.0%} of the whole fall of a module's loss since that loss (where none is "
    f"known: since the first epoch), or where linear probes ran out of iterations. Longer training "
    f"may change the rank of a run that still learns. Without information, all classes have the "
    f"same score: where they are not equally frequent, as phones are, a module that learnt no more "
    f"than their frequencies is not flagged."
)


def flags(records: Sequence[Record]) -> list[Block]:
    """The flagged runs and the rule; empty if no run is flagged."""
    lines = flagged(records)
    return [Bullets(lines), RULE] if lines else []


def flagged(records: Sequence[Record]) -> list[str]:
    """A line for each flag of the runs.

    Each module that learnt nothing or diverged has a line, and so have the unconverged probes of a
    run. The runs of a method that still learn share one, with the phrase of the run that learnt
    most in its last epoch.
    """
    lines = [
        f"{record.method}, seed {record.seed}: {flag}"
        for record in records
        for flag in (*_above_chance(record), *_unconverged(record))
    ]
    for method in dict.fromkeys(record.method for record in records):
        runs = [(r, found) for r in records if r.method == method and (found := _learning(r))]
        if runs:
            record, (_, phrase) = max(runs, key=lambda run: run[1][0])
            others = ", ".join(spans(r.seed for r, _ in runs if r is not record))
            less = f"; less with seed {others}" if others else ""
            lines.append(f"{method}, seed {record.seed}: {phrase}{less}")
    return lines


def still_learning(record: Record) -> bool:
    """Whether the last epoch of the run brought more than the rule allows."""
    return _learning(record) is not None


def diverged(records: Sequence[Record]) -> list[int]:
    """The seeds of the runs with a module whose loss ends far above the uninformed one."""
    return [
        record.seed
        for record in records
        if any(loss > DIVERGED * uninformed for _, loss, uninformed in _last_losses(record))
    ]


def unconverged_probes(metrics: Mapping[str, float]) -> dict[str, int]:
    """The number of linear probes that ran out of iterations, by target."""
    return {
        target_of(name)[0]: int(number)
        for name, number in metrics.items()
        if target_of(name)[1] == "unconverged"
    }


def _above_chance(record: Record) -> Iterator[str]:
    """A phrase for each module whose loss ends above the uninformed one."""
    for unit, loss, uninformed in _last_losses(record):
        if loss > uninformed:
            yield (
                f"{'diverged' if loss > DIVERGED * uninformed else 'learnt nothing'}: the loss of "
                f"{_spoken(unit)} ends at {loss:.2f} {unit_of('loss', record.config)}, where "
                f"{uninformed:.2f} is uninformed"
            )


def _unconverged(record: Record) -> Iterator[str]:
    """A phrase for each target of which linear probes ran out of iterations."""
    for target, number in unconverged_probes(record.metrics).items():
        of_target = f" for {target}" if target else ""
        yield (
            f"{number} linear probe(s){of_target} ran out of iterations, and may read far "
            f"too little"
        )


def _last_losses(record: Record) -> Iterator[tuple[str, float, float]]:
    """(unit, mean of its last epoch, uninformed loss) of the units for which one is known."""
    for unit, losses in _histories(record).items():
        uninformed = _uninformed(record, unit)
        if uninformed is not None:
            yield unit, losses[-1], uninformed


def _learning(record: Record) -> tuple[float, str] | None:
    """The largest share that a module learnt in the last epoch, with a phrase, if too much."""
    histories = {
        unit: losses
        for unit, losses in _histories(record).items()
        if len(losses) > 1 and "validation_" not in unit
    }
    shares = {
        unit: _last_share(losses, uninformed=_uninformed(record, unit))
        for unit, losses in histories.items()
    }
    unit = max(shares, key=lambda unit: shares[unit], default="")
    if shares.get(unit, 0.0) <= STILL_LEARNING:
        return None
    before, last = histories[unit][-2:]
    return shares[unit], (
        f"still learning: the last epoch brought {shares[unit]:.0%} of what {_spoken(unit)} learnt "
        f"(loss {before:.3f}, then {last:.3f})"
    )


def _last_share(losses: Sequence[float], *, uninformed: float | None) -> float:
    """The fall of a loss in the last epoch, as a share of its whole fall; 0 if it did not fall.

    At most 1: a loss that was above the uninformed one falls by more than the whole.
    """
    before, last = losses[-2:]
    whole = (losses[0] if uninformed is None else uninformed) - last
    return min(1.0, (before - last) / whole) if whole > 0 else 0.0


def _histories(record: Record) -> Mapping[str, Sequence[float]]:
    """The loss of every unit in each epoch; models of a cell may have other numbers of epochs."""
    found = defaultdict[str, list[float]](list)
    for row in record.losses:
        for unit, loss in row.items():
            if unit != "epoch":
                found[unit].append(loss)
    return found


def _uninformed(record: Record, unit: str) -> float | None:
    """The loss of a predictor without information; None where none is known."""
    target = next((name for name in TARGETS if unit.startswith(f"{name}_")), None)
    prefix = "" if target is None else f"{target}_"
    return record.metrics.get(f"{prefix}uninformed_loss/{unit.removeprefix(prefix)}")


def _spoken(unit: str) -> str:
    """The unit in words: "module 2", or "phone module 2" of the model for phones."""
    return unit.replace("_", " ")
