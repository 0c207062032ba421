"""Curves of the records: accuracy over modules, losses over epochs, the probe over its rates."""

import math
from collections.abc import Iterable, Mapping, Sequence

from gim_bench.records.metrics import hyperparameter_of, target_of, unit_of
from gim_bench.records.record import Record
from gim_bench.report.columns import Row, heading_of, with_unit
from gim_bench.report.document import Curve, Figure, Panel, Points
from gim_bench.training.loop import VALIDATION

OBJECTIVES = {"info_nce": "InfoNCE", "cross_entropy": "Cross-entropy"}


def module_figures(rows: Sequence[Row], names: Sequence[str]) -> list[Figure]:
    """Test error of every module, a panel for each of the accuracies `names`.

    Methods whose features are no stack of modules have no curve.

    Source: Löwe et al. 2019, Figure 4, with a logarithmic error.
    """
    panels = []
    for name in names:
        curves = [
            Curve(method=row.method, seeds=[_over_modules(r, name) for r in row.records])
            for row in rows
        ]
        stacks = [c for c in curves if any(len(points) > 1 for points in c.seeds)]
        panels += [_panel(heading_of(name), stacks)] if stacks else []
    if not panels:
        return []
    return [
        Figure(
            title="Test error of every module",
            panels=panels,
            methods=[row.method for row in rows],
            x_label="module",
            y_label="test error, %",
            log_y=True,
        )
    ]


def _over_modules(record: Record, name: str) -> Points:
    prefix = f"{name}/module_"
    found = {
        int(metric.removeprefix(prefix)): value
        for metric, value in record.metrics.items()
        if metric.startswith(prefix)
    }
    return [(float(m), 100 - found[m]) for m in sorted(found)]


def loss_figures(rows: Sequence[Row]) -> list[Figure]:
    """A figure for every objective and target that was trained for more than one epoch.

    Source: Löwe et al. 2019, Figure 3 (GIM, all modules together and one after the other).
    """
    families: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for record in row.records:
            objective = str(record.config.get("method", {}).get("objective"))
            for target, _ in _units(record):
                having = families.setdefault((objective, target), [])
                having += [] if row in having else [row]
    return [
        _loss_figure(objective, target, having, methods=[row.method for row in rows])
        for (objective, target), having in families.items()
    ]


def _units(record: Record) -> list[tuple[str, str]]:
    """(target, unit) of every loss, training and validation; none for a single epoch.

    The target of InfoNCE and of the class of an image is empty.
    """
    names = record.losses[0] if len(record.losses) > 1 else ()
    return [target_of(name) for name in names if name != "epoch"]


def _loss_figure(
    objective: str, target: str, rows: Sequence[Row], *, methods: Sequence[str]
) -> Figure:
    units = {unit for row in rows for r in row.records for of, unit in _units(r) if of == target}
    modules = _in_order(unit.removeprefix(VALIDATION) for unit in units)
    prefix = f"{target}_" if target else ""
    loss = OBJECTIVES.get(objective, objective)
    configs = [record.config for row in rows for record in row.records]
    drawn = {c["info_nce"]["negatives"] for c in configs if "negatives" in c.get("info_nce", {})}
    # The loss of a predictor that scores all candidates alike.
    chance = {f"chance, ln(1 + {n})": math.log(1 + n) for n in sorted(drawn)}
    panels = []
    for module in modules:
        curves = [
            Curve(
                method=row.method,
                seeds=[_over_epochs(r, f"{prefix}{split}{module}") for r in row.records],
                validation=bool(split),
            )
            for row in rows
            for split in ("", VALIDATION)
        ]
        panels.append(_panel(module, curves, levels=chance if objective == "info_nce" else None))
    return Figure(
        title=f"{loss} of every module over epochs" + (f": {target}" if target else ""),
        panels=panels,
        methods=methods,
        x_label="epochs",
        y_label=with_unit(loss, unit_of("loss", configs[0])),
    )


def _over_epochs(record: Record, name: str) -> Points:
    return [(float(row["epoch"]), row[name]) for row in record.losses if name in row]


def rate_figures(rows: Sequence[Row]) -> list[Figure]:
    """A figure for every target: the probe's validation accuracy over its hyperparameters."""
    names = dict.fromkeys(name for row in rows for r in row.records for name in r.probe_curves)
    targets = dict.fromkeys(name.rpartition("/")[0] for name in names)
    return [_rate_figure(target, rows) for target in targets]


def _rate_figure(target: str, rows: Sequence[Row]) -> Figure:
    found = {row.method: [_rates_by_module(r, target) for r in row.records] for row in rows}
    modules = _in_order(module for records in found.values() for r in records for module in r)
    # Features that are no stack of modules would pass for the first module's.
    stacks = [method for method, records in found.items() if any(len(r) > 1 for r in records)]
    panels = [
        _panel(
            module,
            [
                Curve(method=method, seeds=[r.get(module, []) for r in found[method]])
                for method in stacks or found
            ],
        )
        for module in modules
    ]
    varied = dict.fromkeys(hyperparameter_of(r.config) for row in rows for r in row.records)
    plurals = {"learning rate": "learning rates", "L2 penalty": "L2 penalties"}
    over = " or ".join(plurals[name] for name in varied)
    return Figure(
        title=f"Linear probe of every module over {over}" + (f": {target}" if target else ""),
        panels=panels,
        methods=[row.method for row in rows],
        x_label=" or ".join(varied),
        y_label="validation accuracy, %",
        log_x=True,
    )


def _rates_by_module(record: Record, target: str) -> dict[str, Points]:
    """The probe's [(hyperparameter, percent), …] of one target, by module."""
    found: dict[str, Points] = {}
    for name, curve in record.probe_curves.items():
        of, _, module = name.rpartition("/")
        if of == target:
            found[module] = sorted((rate, accuracy) for rate, accuracy in curve)
    return found


def _panel(
    module: str, curves: Iterable[Curve], *, levels: Mapping[str, float] | None = None
) -> Panel:
    """The curves of the seeds that have points; a method without such a seed has no curve."""
    filled = [
        Curve(method=c.method, seeds=seeds, validation=c.validation)
        for c in curves
        if (seeds := [points for points in c.seeds if points])
    ]
    return Panel(title=module.replace("_", " "), curves=filled, levels=levels or {})


def _in_order(modules: Iterable[str]) -> list[str]:
    return sorted(set(modules), key=lambda module: int(module.rpartition("_")[2]))
