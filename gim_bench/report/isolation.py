"""Where gradients reach: measured after training, beside what the methods declare."""

from collections.abc import Sequence

from gim_bench.records.metrics import target_of
from gim_bench.records.record import Record
from gim_bench.report.columns import NONE
from gim_bench.report.document import Block, Bullets, Column, Section, Table
from gim_bench.training.audit import leaks

HEADINGS = ("method", "gradient flow declared", "losses", "each reaches", "as declared")


def isolation_section(done: Sequence[Record]) -> Section:
    """A line for each method that trains; the norms themselves where they contradict it.

    Empty where no record holds any.
    """
    trained = [record for record in done if "train/steps" in record.metrics]
    blocks: list[Block] = []
    if any(record.isolation for record in trained):
        blocks.append(_overview(trained))
        for record in trained:
            blocks += _contradicted(record)
    return Section(title="Where gradients reach, measured after training", blocks=blocks)


def _overview(trained: Sequence[Record]) -> Table:
    methods = dict.fromkeys(record.method for record in trained)
    return Table(
        columns=[Column(heading=heading, numeric=heading == "losses") for heading in HEADINGS],
        rows=[_line(method, [r for r in trained if r.method == method]) for method in methods],
    )


def _line(method: str, records: Sequence[Record]) -> list[str]:
    """Of one method, all seeds together."""
    declared = str(records[0].config["method"]["gradient_flow"]).replace("_", " ")
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
    """What every loss of the cell reaches, where that can be said in a few words."""
    rows = record.isolation
    reached = {loss: {n for n, norm in row.items() if norm != 0} for loss, row in rows.items()}
    if all(reached[loss] == {target_of(loss)[1]} for loss in rows):
        return "its own module"
    if all(reached[loss] == row.keys() for loss, row in rows.items()):
        return f"all {len(next(iter(rows.values())))} modules"
    return "see below"


def _contradicted(record: Record) -> list[Block]:
    """What is wrong and all norms, if anything is."""
    found = leaks(record)
    if not found:
        return []
    modules = list(next(iter(record.isolation.values())))
    norms = Table(
        columns=[Column(heading="loss", numeric=False), *(Column(heading=n) for n in modules)],
        rows=[[loss, *map(_shown, row.values())] for loss, row in record.isolation.items()],
    )
    return [f"{record.method}, seed {record.seed}: norms of ∂loss/∂θ", Bullets(found), norms]


def _shown(norm: float | None) -> str:
    """JSON has no sign for what is not finite."""
    return "not finite" if norm is None else f"{norm:.2g}"
