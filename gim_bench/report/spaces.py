"""Sweeps of settings of training, as a table and as data."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from gim_bench.report.columns import NONE
from gim_bench.report.document import Block, Bullets, Column, Document, Section, Table
from gim_bench.report.markdown import as_markdown

Found = Mapping[str, Any]  # what a sweep found for a method and seed: docs/sweep.md

NOTE = (
    "Trials were chosen by the accuracy of the linear probe on validation, at the top module and "
    "the best of the suite's rates. The best of many is better there than on new data, and is of "
    "one seed: run it with others before it is compared."
)


def render_spaces(found: Sequence[Found], *, suite: str, as_json: bool) -> str:
    """A section for each method and seed, as Markdown; or all of it as JSON."""
    if as_json:
        return json.dumps(found, indent=2)
    sections = [_section(one) for one in found]
    title = f"Sweep of training settings of suite {suite}"
    return as_markdown(Document(title=title, summary=[NOTE], sections=sections))


def _section(found: Found) -> Section:
    ends = [f"best: {_summary(found['best'])}", f"the suite's own: {_summary(found['own'])}"]
    blocks: list[Block] = [_table(found), Bullets(ends)]
    return Section(title=f"{found['method']} seed {found['seed']}", blocks=blocks)


def _summary(row: Found | None) -> str:
    """A trial and the words that run it."""
    if row is None:
        return "no trial was completed"
    options = " ".join(f"--set {shlex.quote(override)}" for override in row["set"])
    return f"trial {row['trial']}, {_percent(row)} %, {options}"


def _table(found: Found) -> Table:
    """A row for each trial, in their order."""
    settings = list(found["space"])
    return Table(
        columns=[
            Column(heading="trial"),
            *(Column(heading=name) for name in settings),
            Column(heading="validation %"),
            Column(heading="outcome", numeric=False),
        ],
        rows=[
            [
                str(row["trial"]),
                *(_short(row["settings"][name]) for name in settings),
                _percent(row),
                _outcome(row),
            ]
            for row in found["trials"]
        ],
    )


def _percent(row: Found) -> str:
    accuracy = row["validation_accuracy"]
    return NONE if accuracy is None else f"{accuracy:.1f}"


def _outcome(row: Found) -> str:
    """How a trial ended, and why or where where it is not complete."""
    if row["error"] is not None:
        return f"failed: {row['error']}"
    if row["state"] == "pruned" and row["by_epoch"]:
        epoch, accuracy = row["by_epoch"][-1]
        return f"pruned after epoch {epoch}, at {accuracy:.1f} %"
    return str(row["state"])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
