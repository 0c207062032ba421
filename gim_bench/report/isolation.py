"""The reach of gradients: measured after training, beside the declared gradient flow."""

from collections.abc import Sequence

from gim_bench.records.metrics import target_of
from gim_bench.records.record import Record
from gim_bench.report.columns import NONE
from gim_bench.report.document import Block, Bullets, Column, Section, Table
from gim_bench.training.audit import leaks

HEADINGS = ("method", "gradient flow declared", "losses", "each reaches", "as declared")


def isolation_section(done: Sequence[Record]) -> Section:
    """A row for each method that trains; all norms of a cell that contradicts its declaration.

    Empty if no record holds norms.
    """
    trained = [record for record in done if "train/steps" in record.metrics]
    methods = dict.fromkeys(record.method for record in trained)
    blocks: list[Block] = []
    if any(record.isolation for record in trained):
        overview = Table(
            columns=[Column(heading=heading, numeric=heading == "losses") for heading in HEADINGS],
            rows=[_line(method, [r for r in trained if r.method == method]) for method in methods],
        )
        blocks = [overview, *(block for record in trained for block in _contradicted(record))]
    return Section(title="Where gradients reach, measured after training", blocks=blocks)


def _line(method: str, records: Sequence[Record]) -> list[str]:
    """The row of one method, all seeds together."""
    settings = records[0].config["method"]
    declared = str(settings["gradient_flow"]).replace("_", " ")
    if units := settings.get("units"):
        declared += f", {units} unit{'' if units == 1 else 's'}"
    if not all(record.isolation for record in records):
        return [method, declared, NONE, NONE, "not measured"]
    reached = {_reach(record) for record in records}
    return [
        method,
        declared,
        str(len(records[0].isolation)),
        reached.pop() if len(reached) == 1 else "see below",
        "NO" if any(map(leaks, records)) else "yes",
    ]


def _reach(record: Record) -> str:
    """The modules that every loss of the cell reaches, if a few words can name them."""
    rows = record.isolation
    reached = {loss: {n for n, norm in row.items() if norm != 0} for loss, row in rows.items()}
    if all(reached[loss] == {target_of(loss)[1]} for loss in rows):
        return "its own module"
    if all(reached[loss] == row.keys() for loss, row in rows.items()):
        return f"all {len(next(iter(rows.values())))} modules"
    if not leaks(record):
        return "the modules of its own unit"
    return "see below"


def _contradicted(record: Record) -> list[Block]:
    """The leaks of a cell and all of its norms; nothing for a cell without leaks."""
    found = leaks(record)
    if not found:
        return []
    modules = list(next(iter(record.isolation.values())))
    rows = []
    for loss, norms in record.isolation.items():  # JSON has no sign for norms that are not finite
        shown = ("not finite" if norm is None else f"{norm:.2g}" for norm in norms.values())
        rows.append([loss, *shown])
    columns = [Column(heading="loss", numeric=False), *(Column(heading=n) for n in modules)]
    return [
        f"{record.method}, seed {record.seed}: norms of ∂loss/∂θ",
        Bullets(found),
        Table(columns=columns, rows=rows),
    ]
