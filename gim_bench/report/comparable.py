"""The rules by which a number that a paper prints is comparable with ours."""

from collections.abc import Callable, Mapping
from typing import Any

from gim_bench.report.columns import Row, failed_seeds
from gim_bench.report.published import Published
from gim_bench.report.tags import misfits, settings_of

Describes = Callable[[Mapping[str, Any]], bool]  # whether a configuration is the suite's
DETERMINISTIC = "memory/gpu_allocated"  # metrics that repeat to the byte


def misfit(row: Row, paper: Published, *, metric: str, describes: Describes) -> str:
    """The first reason why the row is not comparable with the paper; empty without one."""
    for record in row.records:
        if not describes(record.config):
            return "settings are not the suite's"
        if incomplete := record.provenance.get("data_incomplete"):
            return f"data: {incomplete}"
        settings = settings_of(record)
        for name, needed in paper.requires.items():
            if (value := settings.get(name, "absent")) != needed:
                return f"{name} is {value}, where {paper.table} needs {needed}"
    if differs := misfits(row.records, paper.tags, table=paper.table):
        return differs
    if len({record.provenance.get("data_sha256") for record in row.records}) > 1:
        return "the seeds saw different data"
    return "" if metric.startswith(DETERMINISTIC) else failed_seeds(row)
