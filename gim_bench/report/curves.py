"""Which curves the records hold: losses over epochs, the probe's accuracy over learning rates."""

import math
from collections.abc import Iterable, Sequence

from gim_bench.records.metrics import target_of
from gim_bench.records.record import Record
from gim_bench.report.columns import Row
from gim_bench.report.document import Curve, Figure, Panel, Points
from gim_bench.training.loop import VALIDATION

OBJECTIVES = {"info_nce": "InfoNCE", "cross_entropy": "Cross-entropy"}


def loss_figures(rows: Sequence[Row]) -> list[Figure]:
    """One for every objective and target that was trained for more than one epoch.

    Source: Löwe et al. 2019, Figure 3 (GIM, all modules together and one after the other).
    """
    families: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for family in dict.fromkeys(f for record in row.records for f in _families(record)):
            families.setdefault(family, []).append(row)
    return [
        _loss_figure(objective, target, having, methods=[row.method for row in rows])
        for (objective, target), having in families.items()
    ]


def rate_figures(rows: Sequence[Row]) -> list[Figure]:
    """One for every target: the linear probe's validation accuracy over its learning rates."""
    names = dict.fromkeys(name for row in rows for r in row.records for name in r.probe_curves)
    targets = dict.fromkeys(name.rpartition("/")[0] for name in names)
    return [_rate_figure(target, rows) for target in targets]


def _families(record: Record) -> list[tuple[str, str]]:
    """(objective, target) of its losses; the target of InfoNCE and of classes is empty."""
    objective = str(record.config.get("method", {}).get("objective"))
    return [(objective, target) for target in dict.fromkeys(target for target, _ in _units(record))]


def _units(record: Record) -> list[tuple[str, str]]:
    """(target, unit) of every loss, training and validation; none where one epoch is all."""
    names = record.losses[0] if len(record.losses) > 1 else ()
    return [target_of(name) for name in names if name != "epoch"]


def _loss_figure(
    objective: str, target: str, rows: Sequence[Row], *, methods: Sequence[str]
) -> Figure:
    units = {unit for row in rows for r in row.records for of, unit in _units(r) if of == target}
    modules = _in_order(unit.removeprefix(VALIDATION) for unit in units)
    prefix = f"{target}_" if target else ""
    loss = OBJECTIVES.get(objective, objective)
    return Figure(
        title=f"{loss} of every module over epochs" + (f": {target}" if target else ""),
        panels=[_loss_panel(module, rows, prefix=prefix) for module in modules],
        methods=methods,
        x_label="epochs",
        y_label=f"{loss}, nats",
        levels=_chance(rows) if objective == "info_nce" else {},
    )


def _loss_panel(module: str, rows: Sequence[Row], *, prefix: str) -> Panel:
    found = [
        Curve(
            method=row.method,
            seeds=[_over_epochs(r, f"{prefix}{split}{module}") for r in row.records],
            validation=bool(split),
        )
        for row in rows
        for split in ("", VALIDATION)
    ]
    return _panel(module, found)


def _over_epochs(record: Record, name: str) -> Points:
    return [(float(row["epoch"]), row[name]) for row in record.losses if name in row]


def _chance(rows: Sequence[Row]) -> dict[str, float]:
    """What a predictor that knows nothing scores, in nats."""
    settings = [r.config.get("info_nce", {}) for row in rows for r in row.records]
    drawn = {s["negatives"] for s in settings if "negatives" in s}
    return {f"chance, ln(1 + {n})": math.log(1 + n) for n in sorted(drawn)}


def _rate_figure(target: str, rows: Sequence[Row]) -> Figure:
    found = {row.method: [_rates_by_module(r, target) for r in row.records] for row in rows}
    modules = _in_order(module for records in found.values() for r in records for module in r)
    # Features that are no stack of modules would pass for the first one's.
    stacks = [method for method, records in found.items() if any(len(r) > 1 for r in records)]
    return Figure(
        title="Linear probe of every module over learning rates"
        + (f": {target}" if target else ""),
        panels=[
            _panel(
                module,
                [
                    Curve(method=method, seeds=[r.get(module, []) for r in found[method]])
                    for method in stacks or found
                ],
            )
            for module in modules
        ],
        methods=[row.method for row in rows],
        x_label="learning rate",
        y_label="validation accuracy, %",
        log_x=True,
    )


def _rates_by_module(record: Record, target: str) -> dict[str, Points]:
    """The probe's [(learning rate, percent), …] of one target, by module."""
    found: dict[str, Points] = {}
    for name, curve in record.probe_curves.items():
        of, _, module = name.rpartition("/")
        if of == target:
            found[module] = [(rate, accuracy) for rate, accuracy in curve]
    return found


def _panel(module: str, curves: Iterable[Curve]) -> Panel:
    """Without the seeds that have no points here, and the methods that have no such seed."""
    filled = [
        Curve(method=c.method, seeds=seeds, validation=c.validation)
        for c in curves
        if (seeds := [points for points in c.seeds if points])
    ]
    return Panel(title=module.replace("_", " "), curves=filled)


def _in_order(modules: Iterable[str]) -> list[str]:
    return sorted(set(modules), key=lambda module: int(module.rpartition("_")[2]))
