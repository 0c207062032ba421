"""What happens inside the encoders as they train: the last values as a table, and curves."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from gim_bench.records.metrics import target_of
from gim_bench.records.record import Record
from gim_bench.report.columns import NONE, Row
from gim_bench.report.document import Block, Column, Curve, Figure, Panel, Section, Table
from gim_bench.training.inside import BOUND, CKA, COSINE, RANK


class Measure(NamedTuple):
    """A measure as the report shows it."""

    heading: str
    title: str
    y_label: str
    decimals: int


MEASURES = {
    RANK: Measure("effective rank", "Effective rank of the encodings", "effective rank", 1),
    COSINE: Measure(
        "cosine with end-to-end gradient",
        "Cosine between a module's own gradient and the end-to-end gradient",
        "cosine",
        2,
    ),
    BOUND: Measure(
        "bound on information, nats",
        "Lower bound on mutual information, log(candidates) - loss",
        "bound, nats",
        2,
    ),
    CKA: Measure(
        "CKA with the module above", "Linear CKA of a module and the one above", "linear CKA", 2
    ),
}
NOTE = (
    "Measured on one batch of training examples, before training and after every epoch; means over "
    "seeds. A number is the last, in brackets the first. An effective rank of 1 is a collapse. "
    "The cosine is 1 for every module of the topmost unit, whose loss is the end-to-end loss. "
    "Encodings that are all 0 have no rank, and constant features have no CKA: the value is then "
    "not defined. n counts the seeds with a value where some seeds have none."
)
NOT_DEFINED = "not defined"


class Place(NamedTuple):
    """A measure of a module, of the model for one target (empty where there is one model)."""

    target: str
    measure: str
    module: str


def inside_section(rows: Sequence[Row]) -> Section:
    """A row for each module of each method that was looked into, and a figure for each measure."""
    observed = [row for row in rows if any(record.inside for record in row.records)]
    blocks: list[Block] = []
    if observed:
        blocks = [_table(observed), NOTE, *_figures(observed, [row.method for row in rows])]
    return Section(title="Inside the encoders", blocks=blocks)


def _table(rows: Sequence[Row]) -> Table:
    found = [(row, _names(row)) for row in rows]
    shown = [m for m in MEASURES if any(p.measure == m for _, names in found for p in names)]
    lines = []
    for row, names in found:
        for target, module in dict.fromkeys((p.target, p.module) for p in names):
            cells = [_cell(row, names.get(Place(target, m, module)), m) for m in shown]
            called = f"{row.method}, {target}" if target else row.method
            lines.append([called, module, *cells])
    headings = [Column(heading=MEASURES[measure].heading) for measure in shown]
    titles = [Column(heading=name, numeric=False) for name in ("method", "module")]
    return Table(columns=[*titles, *headings], rows=lines)


def _cell(row: Row, name: str | None, measure: str) -> str:
    """The value after the last epoch, and in brackets the value before training."""
    if name is None:
        return NONE
    last, first = (_mean(row, name, measure, at=place) for place in (-1, 0))
    return f"{last} ({first})"


def _mean(row: Row, name: str, measure: str, *, at: int) -> str:
    """The mean over seeds at one place of the curves, with the number of seeds if not all count."""
    looks = []
    for record in row.records:
        # Models of one cell may take other numbers of epochs.
        own = [look for look in record.inside if _has(look, target=target_of(name)[0])]
        looks += [own[at]] if own else []
    values = [look[name] for look in looks if name in look]
    if not values:
        return NOT_DEFINED
    mean = f"{fmean(values):.{MEASURES[measure].decimals}f}"
    return mean if len(values) == len(looks) else f"{mean}, n={len(values)}"


def _has(look: Mapping[str, float], *, target: str) -> bool:
    return any(target_of(name)[0] == target for name in look)


def _figures(rows: Sequence[Row], methods: Sequence[str]) -> list[Figure]:
    found = [_curves(row) for row in rows]
    figures = []
    for target, measure in dict.fromkeys((p.target, p.measure) for curves in found for p in curves):
        modules = sorted(
            {p.module for curves in found for p in curves if p[:2] == (target, measure)},
            key=lambda module: int(module.rpartition(" ")[2]),
        )
        places = [Place(target, measure, module) for module in modules]
        panels = [
            Panel(title=p.module, curves=[curves[p] for curves in found if p in curves])
            for p in places
        ]
        figures.append(
            Figure(
                title=MEASURES[measure].title + (f": {target}" if target else ""),
                panels=panels,
                methods=methods,
                x_label="epochs",
                y_label=MEASURES[measure].y_label,
            )
        )
    return figures


def _curves(row: Row) -> dict[Place, Curve]:
    """The curve of every measure that is shown, over the seeds that have it; by module, upwards."""
    found = {}
    for place, name in _names(row).items():
        seeds = [
            [(float(values["epoch"]), values[name]) for values in record.inside if name in values]
            for record in row.records
        ]
        found[place] = Curve(method=row.method, seeds=[points for points in seeds if points])
    return found


def _names(row: Row) -> dict[Place, str]:
    """The name in the records of every measure that is shown; by module, upwards."""
    names = {place: name for record in row.records for place, name in _named(record)}
    return dict(sorted(names.items(), key=lambda pair: int(pair[0].module.rpartition(" ")[2])))


def _named(record: Record) -> Iterator[tuple[Place, str]]:
    """The measures of a record; of CKA those of neighbours alone, under the lower module."""
    for name in dict.fromkeys(name for values in record.inside for name in values):
        target, measure = target_of(name)
        kind, *modules = measure.split("/")
        if kind not in MEASURES:
            continue
        numbers = [int(module.rpartition("_")[2]) for module in modules]
        if len(numbers) == 1 or numbers[1] == numbers[0] + 1:
            yield Place(target, kind, f"module {numbers[0]}"), name
