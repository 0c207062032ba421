"""Sweeps of settings of training, as a table and as data."""

import json
import shlex
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from gim_bench.report.columns import NONE
from gim_bench.report.document import Bullets, Column, Document, Section, Table
from gim_bench.report.markdown import as_markdown

Found = Mapping[str, Any]  # the sweep of a method and seed: docs/sweep.md

NOTE = (
    "Trials were chosen by the accuracy of the linear probe on validation, at the top module and "
    "the best of the suite's rates. The best of many trials is better on validation than on new "
    "data, and has one seed: run the best trial with other seeds before you compare it."
)


def render_spaces(found: Sequence[Found], *, suite: str, as_json: bool) -> str:
    """A section for each method and seed, as Markdown; or all of them as JSON."""
    if as_json:
        return json.dumps(found, indent=2)
    sections = []
    for one in found:
        ends = [f"best: {_summary(one['best'])}", f"the suite's own: {_summary(one['own'])}"]
        title = f"{one['method']} seed {one['seed']}"
        sections.append(Section(title=title, blocks=[_table(one), Bullets(ends)]))
    sections += _over_seeds(found)
    title = f"Sweep of training settings of suite {suite}"
    return as_markdown(Document(title=title, summary=[NOTE], sections=sections))


def _over_seeds(found: Sequence[Found]) -> list[Section]:
    """The mean of each trial over the seeds, for methods whose every seed tried the trial."""
    sections = []
    for method in dict.fromkeys(one["method"] for one in found):
        of_seeds = [one for one in found if one["method"] == method]
        if len(of_seeds) == 1:
            continue
        values: dict[tuple[str, ...], list[str]] = {}
        accuracies: dict[tuple[str, ...], dict[int, float]] = {}
        for seed, row in ((one["seed"], row) for one in of_seeds for row in one["trials"]):
            trial = tuple(row["set"])  # exact, where the values shown are rounded
            values[trial] = [_shown(value) for value in row["settings"].values()]
            if row["validation_accuracy"] is not None:
                accuracies.setdefault(trial, {})[seed] = row["validation_accuracy"]
        rows = [
            [*values[trial], f"{fmean(by_seed.values()):.1f}"]
            for trial, by_seed in accuracies.items()
            if len(by_seed) == len(of_seeds)
        ]
        names = list(of_seeds[0]["space"])
        headings = [*names, "validation %"]
        table = Table(columns=[Column(heading=heading) for heading in headings], rows=rows)
        title = f"{method}, mean over {len(of_seeds)} seeds"
        sections += [Section(title=title, blocks=[table])] if rows else []
    return sections


def _summary(row: Found | None) -> str:
    """A trial, and the options that run the trial."""
    if row is None:
        return "no trial was completed"
    options = " ".join(f"--set {shlex.quote(override)}" for override in row["set"])
    return f"trial {row['trial']}, {_percent(row)} %, {options}"


def _table(found: Found) -> Table:
    """A row for each trial, in the order of the trials."""
    settings = list(found["space"])
    rows = []
    for row in found["trials"]:
        values = [row["settings"][name] for name in settings]
        rows.append([str(row["trial"]), *map(_shown, values), _percent(row), _outcome(row)])
    columns = [
        Column(heading="trial"),
        *(Column(heading=name) for name in settings),
        Column(heading="validation %"),
        Column(heading="outcome", numeric=False),
    ]
    return Table(columns=columns, rows=rows)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _percent(row: Found) -> str:
    accuracy = row["validation_accuracy"]
    return NONE if accuracy is None else f"{accuracy:.1f}"


def _outcome(row: Found) -> str:
    """The end of a trial, with the reason or the epoch of a trial that is not complete."""
    if row["error"] is not None:
        return f"failed: {row['error']}"
    if row["state"] == "pruned" and row["by_epoch"]:
        epoch, accuracy = row["by_epoch"][-1]
        return f"pruned after epoch {epoch}, at {accuracy:.1f} %"
    return str(row["state"])
