"""Records as data: JSON with one object a cell, CSV with one line a cell and metric."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence

from gim_bench.errors import ConfigError
from gim_bench.records.metrics import describe, unit_of
from gim_bench.records.record import Record
from gim_bench.records.sealed import finite

CSV_FIELDS = ("suite", "method", "dataset", "seed", "key", "status")


def as_json(records: Sequence[Record], *, metrics: Sequence[str] = ()) -> str:
    """A JSON list with one object for each record, finished or not, with the fields of a record.

    A metric that is not a finite number is left out, like a metric that was not measured. Other
    numbers that are not finite are null.
    """
    cells = [
        finite(record.as_dict()) | {"metrics": _chosen(record.metrics, metrics)}
        for record in records
    ]
    return json.dumps(cells, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def as_csv(records: Sequence[Record], *, metrics: Sequence[str] = ()) -> str:
    """Long format: a line for each cell and metric, with its unit and better direction.

    A cell without metrics has one line with an empty metric, so that a failure is not overlooked.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*CSV_FIELDS, "metric", "value", "unit", "better"])
    for record in records:
        cell = [getattr(record, name) for name in CSV_FIELDS]
        chosen = _chosen(record.metrics, metrics)
        for name, value in chosen.items():
            try:
                about = [unit_of(name, record.config), describe(name).better.value]
            except ConfigError:  # a metric in a record of another version
                about = ["", ""]
            writer.writerow([*cell, name, value, *about])
        if not chosen:
            writer.writerow([*cell, "", "", "", ""])
    return text.getvalue()


def _chosen(values: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    return {
        name: value
        for name, value in values.items()
        if (not names or name in names) and math.isfinite(value)
    }
