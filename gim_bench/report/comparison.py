"""The differences between the rows of a table: shown from their records, not claimed."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from gim_bench.cells.defaults import by_name, each_with_defaults, sharing
from gim_bench.records.record import Record
from gim_bench.records.statistics import flatten, spans
from gim_bench.settings.schema import Schedule

ABSENT = "absent"
# Facts that must not change within a table; the machine's name may.
CONSTANTS = ("data_sha256", "git_commit", "git_dirty", "device", "gpu", "driver", "cpu", "threads",
             "workers", "precision", "versions")  # fmt: skip

Rows = Mapping[str, Mapping[str, Any]]  # the tables `[method.<name>]` of a suite, by row
NO_ROWS: Rows = {}
Cells = Mapping[str, Sequence[Record]]  # the records that have each value


class Kind(StrEnum):
    """The subject of a difference, in the order of the report."""

    OPTIMISER = "optimiser"
    RATE = "rate"
    ENCODER = "encoder"
    AUGMENTATION = "augmentation"
    BUDGET = "budget"
    LABELS = "labels"
    PROBE = "probe"
    PRECISION = "precision"
    DATA = "data"
    SEEDS = "seeds"
    OBJECTIVE = "settings of one objective"
    OTHER = "other settings"
    METHOD = "method"  # the method itself: objective, gradient flow, ablation, options


# By setting, count or fact; any other name has the kind of the table that the setting stands in.
KINDS = {
    "training.optimiser": Kind.OPTIMISER,
    "training.learning_rate": Kind.RATE,
    "training.rate_schedule": Kind.RATE,
    "encoder": Kind.ENCODER,
    "augmentation": Kind.AUGMENTATION,
    "method.views": Kind.AUGMENTATION,
    "training.epochs": Kind.BUDGET,
    "training.batch_size": Kind.BUDGET,
    "training.budget": Kind.BUDGET,
    "training.held_out": Kind.BUDGET,
    "train/steps": Kind.BUDGET,
    "train/samples": Kind.BUDGET,
    "train/operations": Kind.BUDGET,
    "train/labels": Kind.LABELS,
    "method.trains_on": Kind.LABELS,
    "method.uses_labels": Kind.LABELS,
    "probe": Kind.PROBE,
    "training.precision": Kind.PRECISION,
    "dataset": Kind.DATA,
    "data_sha256": Kind.DATA,
    "seeds": Kind.SEEDS,
    "objective": Kind.OBJECTIVE,
    "info_nce": Kind.OBJECTIVE,
    "method": Kind.METHOD,
}
OF_METHOD = ("method.", "objective.")  # the tables that are the method's own


class By(StrEnum):
    """Who declares a difference."""

    METHOD = "the method"
    ROW = "its row"  # in the table `[method.<name>]` of the suite
    RUN = "the run"  # seeds are chosen on the command line
    NOBODY = "UNDECLARED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A counted cost, and the declarations that the count follows from."""

    of_method: Sequence[str]  # names in the table `method` of a configuration
    of_row: Sequence[str]  # settings, or whole tables of them, that a row may have otherwise
    given: bool  # False: the count follows from what the method is, not from what it was given


# What a method declares that decides its modules and heads; only where modules are trained in turn
# does it also decide how many steps are taken.
PARTS = ("objective", "gradient_flow", "units", "ablation", "only", "base", "options")
TURNS = ("gradient_flow", "units", "ablation", "only", "base")
# The settings that decide how many steps are taken, and on how many examples.
PACE = ("training.epochs", "training.batch_size", "training.budget", "training.held_out")
COUNTS = {
    "train/labels": Count(of_method=("trains_on",), of_row=(), given=True),
    "train/samples": Count(of_method=("trains_on", "views"), of_row=PACE, given=True),
    "train/steps": Count(of_method=("trains_on",), of_row=PACE, given=True),
    "train/parameters": Count(
        of_method=("trains_on", *PARTS),
        of_row=("encoder", "augmentation", "objective"),
        given=False,
    ),
    "train/operations": Count(
        of_method=("trains_on", "views", *PARTS, "schedule", "recompute"),
        of_row=("encoder", "augmentation", "objective", *PACE),
        given=False,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A setting, count or fact that is not the same everywhere."""

    name: str
    kind: Kind
    by: By
    holders: Mapping[str, Sequence[str]]  # {value: methods}

    @property
    def declared(self) -> bool:
        return self.by is not By.NOBODY

    def described(self) -> str:
        """Each value and the rows that have it: "6: gim; 7: cpc"."""
        return "; ".join(f"{value}: {', '.join(who)}" for value, who in self.holders.items())


def between_rows(records: Sequence[Record], *, rows: Rows = NO_ROWS) -> list[Difference]:
    """All differences between the rows: settings, costs that were given, data and seeds.

    `rows` holds what the suite declares for its rows.
    """
    counts = count_differences(records, rows=rows)
    return [
        *differences(records, rows=rows),
        *(count for count in counts if COUNTS[count.name].given or not count.declared),
        *(mixture for mixture in mixtures(records) if mixture.name == "data_sha256"),
        *_seeds(records),
    ]


def undeclared(records: Sequence[Record], *, rows: Rows = NO_ROWS) -> list[str]:
    """A line for each difference between the rows that neither a method nor a row declares."""
    found = between_rows(records, rows=rows)
    return [f"{d.name}: {d.described()}" for d in found if not d.declared]


def differences(records: Sequence[Record], *, rows: Rows = NO_ROWS) -> list[Difference]:
    """The settings in which the records differ; a setting that a record lacks is at its default.

    A method declares the settings that are about the method itself. A row declares a setting that
    its table in the suite has, as long as the rows without the setting agree.
    """
    full = each_with_defaults(record.config for record in records)
    unlike = {id(config): config for config in full}
    named = {key: _settings(config) for key, config in unlike.items()}
    tables = [named[id(config)] for config in full]
    return [
        _difference(name, cells, by=_declared_by(name, cells, rows))
        for name, cells in _by_value(records, tables).items()
    ]


def _settings(full: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a complete configuration, without the name of the row."""
    table = by_name(full)
    if table.pop("method.name", None) == table.get("method.like"):
        table.pop("method.like", None)  # the method itself, not a variant
    return table


def _declared_by(name: str, cells: Cells, rows: Rows) -> By:
    of_method = name.startswith("method.") or (
        name.startswith("objective.") and _concerned_agree(name, cells)
    )
    # A method or an objective without such a setting says nothing about the setting.
    having = {v: c for v, c in cells.items() if v != ABSENT or not name.startswith(OF_METHOD)}
    optional = ABSENT in cells
    tacit = [
        v for v, c in having.items() if not all(_says(rows, r, name, optional=optional) for r in c)
    ]
    if len(tacit) < len(having) and len(tacit) <= 1:
        return By.ROW
    return By.METHOD if of_method else By.NOBODY


def _says(rows: Rows, record: Record, setting: str, *, optional: bool) -> bool:
    """Whether the table of the record's row has the setting, or the kind of a table around it.

    A row that has an `optional` table, which other rows lack, says all that stands in the table.
    """
    row = _row_of(rows, record)
    said = flatten(row)
    tables = tuple(name.removesuffix("kind") for name in said if name.endswith(".kind"))
    if optional:
        tables += tuple(_inner_tables(row))
    short = setting.removeprefix("method.").removeprefix("options.")
    if short.startswith("info_nce."):  # a row calls the settings of any objective so
        short = short.replace("info_nce", "objective", 1)
    return short in said or short.startswith(tables)


def _row_of(rows: Rows, record: Record) -> Mapping[str, Any]:
    """The table of the record's row.

    A row with modules on a base is called after the row that has the table: "gim_on_cpc_1a2b3c4d".
    """
    name = record.method
    if record.config.get("method", {}).get("base"):
        name = name if name in rows else name.partition("_on_")[0]
    return rows.get(name, {})


def _inner_tables(row: Mapping[str, Any]) -> Iterator[str]:
    """Dotted names of the tables within a row's tables: "training.buffer."."""
    for outer, table in row.items():
        if isinstance(table, Mapping):
            for name, inner in table.items():
                if isinstance(inner, Mapping):
                    yield f"{outer}.{name}."


def count_differences(records: Sequence[Record], *, rows: Rows = NO_ROWS) -> list[Difference]:
    """The counted costs in which the records differ; a record without a count has no part in it.

    A difference is declared if records that agree in all declarations which decide the count agree
    in the count.
    """
    full = each_with_defaults(record.config for record in records)
    records = [replace(record, config=of) for record, of in zip(records, full, strict=True)]
    tables = sharing({n: f"{r.metrics[n]:,.0f}" for n in COUNTS if n in r.metrics} for r in records)
    found = []
    for name, cells in _by_value(records, tables).items():
        counted = {value: having for value, having in cells.items() if value != ABSENT}
        if len(counted) > 1:
            by = By.NOBODY
            if _follows(counted, COUNTS[name], rows=rows):
                by = By.ROW
            if _follows(counted, COUNTS[name], rows=NO_ROWS):
                by = By.METHOD
            found.append(_difference(name, counted, by=by))
    return found


def _follows(cells: Cells, count: Count, *, rows: Rows) -> bool:
    """Whether no two records with different values agree in all that decides the count."""

    def declaration(record: Record) -> str:
        method = record.config.get("method", {})
        in_turn = method.get("schedule") == Schedule.SEQUENTIAL
        own = {
            name: value
            for name, value in flatten(_row_of(rows, record)).items()
            if name.startswith(tuple(count.of_row))
        }
        deciding = [*count.of_method, *(TURNS if in_turn else ())]
        return _text({"row": own} | {each: method.get(each) for each in deciding})

    # Seeds share a configuration, and with it what it declares.
    unlike = [{(r.method, id(r.config)): r for r in having} for having in cells.values()]
    declared = [{declaration(record) for record in having.values()} for having in unlike]
    return sum(map(len, declared)) == len(set().union(*declared))


def _seeds(records: Sequence[Record]) -> list[Difference]:
    """The seeds of each row, where not all rows have the same."""
    holders: dict[str, list[str]] = {}
    for method in dict.fromkeys(record.method for record in records):
        seeds = spans(record.seed for record in records if record.method == method)
        holders.setdefault(", ".join(seeds), []).append(method)
    found = Difference(name="seeds", kind=Kind.SEEDS, by=By.RUN, holders=holders)
    return [found] if len(holders) > 1 else []


def mixtures(records: Sequence[Record]) -> list[Difference]:
    """The facts about protocol, data, code and machine in which `records` differ."""
    facts = sharing(
        {"protocol": record.protocol, "dataset": record.dataset}
        | {name: record.provenance.get(name) for name in CONSTANTS}
        for record in records
    )
    known = {
        id(table): flatten({name: value for name, value in table.items() if value is not None})
        for table in {id(table): table for table in facts}.values()
    }
    tables = [known[id(table)] for table in facts]
    found = _by_value(records, tables)
    return [_difference(name, cells, by=By.NOBODY) for name, cells in found.items()]


def facts_of_costs(records: Sequence[Record]) -> list[str]:
    """The facts about data, code and machine in which the records differ; empty if costs compare.

    A table of facts is named with the fact: "versions.torch".
    """
    names = [mixture.name for mixture in mixtures(records)]
    return [name for name in names if name.partition(".")[0] in CONSTANTS]


def count_settings(records: Sequence[Record]) -> int:
    """The number of settings that the rows share or should share: all but the methods' own."""
    names = {name for record in records for name in flatten(record.config)}
    return sum(not f"{name}.".startswith(OF_METHOD) for name in names)


def _by_value(
    records: Sequence[Record], tables: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, list[Record]]]:
    """{name: {value: records}} of every name with several values; `tables` has one per record.

    Records may share a table, as seeds do: it is looked at once.
    """
    found = {}
    unlike = {id(table): table for table in tables}
    names = dict.fromkeys(name for table in unlike.values() for name in table)
    for name in names:
        values = {key: table.get(name, ABSENT) for key, table in unlike.items()}
        if _is_one([*values.values()]):
            continue
        texts = {key: _text(value) for key, value in values.items()}
        cells: dict[str, list[Record]] = {}
        for record, table in zip(records, tables, strict=True):
            cells.setdefault(texts[id(table)], []).append(record)
        # A table that some records lack differs in its settings, not as a whole.
        if len(cells) > 1 and not any(other.startswith(f"{name}.") for other in names):
            found[name] = cells
    return found


def _is_one(values: Sequence[Any]) -> bool:
    """Whether all values are evidently the same: a short cut, for most settings of a table are."""
    first, plain = values[0], isinstance(values[0], (bool, int, float, str))
    return all(
        value is first or (plain and type(value) is type(first) and value == first)
        for value in values
    )


def _difference(name: str, cells: Cells, *, by: By) -> Difference:
    """The difference, declared by `by`; between the seeds of a method, nobody declares it."""
    methods = [m for having in cells.values() for m in {record.method for record in having}]
    torn = {method for method in methods if methods.count(method) > 1}
    by = By.NOBODY if torn else by
    holders = {
        value: list(_holders(having, torn))
        for value, having in cells.items()
        if by is By.NOBODY or value != ABSENT  # an option of another method
    }
    kind = _kind(name, cells, declared=by is not By.NOBODY)
    return Difference(name=name, kind=kind, by=by, holders=holders)


def _holders(having: Sequence[Record], torn: Collection[str]) -> Iterator[str]:
    """The methods of the records; of a method whose seeds are torn apart, the seeds."""
    seeds: dict[str, list[int]] = {}
    for record in having:
        seeds.setdefault(record.method, []).append(record.seed)
    for method, held in seeds.items():
        if method in torn:
            yield from (f"{method} seed {span}" for span in spans(held))
        else:
            yield method


def _kind(name: str, cells: Cells, *, declared: bool) -> Kind:
    """The kind of the nearest table that has a kind.

    A declared difference is about the method itself if the rows that the setting is about agree.
    """
    nearest = name
    while nearest and nearest not in KINDS:
        nearest = nearest.rpartition(".")[0]
    if declared and _concerned_agree(name, cells):
        return Kind.METHOD
    return KINDS.get(nearest, Kind.OTHER)


def _concerned_agree(name: str, cells: Cells) -> bool:
    """Whether the rows that a setting is about agree: the trained rows, or those of an objective.

    Settings of other kinds are about all rows.
    """
    methods = [[r.config.get("method", {}) for r in having] for having in cells.values()]
    if name.startswith(("method.", "train/")):
        return sum(any(m.get("trains_on") != "none" for m in having) for having in methods) < 2
    if name.startswith(("objective.", "info_nce.")):
        held = Counter(o for having in methods for o in {m.get("objective") for m in having})
        about = ["info_nce"] if name.startswith("info_nce.") else [*held]
        return all(held[objective] < 2 for objective in about)
    return False


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
