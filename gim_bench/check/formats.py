"""A verdict for people (text, Markdown), for programs (JSON) and for CI servers (JUnit's XML)."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from gim_bench.check.judge import Compared, Finding, Outcome, Verdict
from gim_bench.check.tolerance import FALSE_ALARMS, POWER, kind_of
from gim_bench.errors import ConfigError, one_line, unknown_name
from gim_bench.records.metrics import describe
from gim_bench.records.statistics import Summary
from gim_bench.report.columns import BYTES, Style, show, style_of
from gim_bench.report.document import Block, Bullets, Column, Document, Figure, Section, Table
from gim_bench.report.markdown import as_markdown

FORMATS = ("text", "json", "junit", "md")
HEADINGS = ("method", "metric", "reference", "now", "difference", "tolerance", "detects", "verdict")
TEXT_COLUMNS = {"method", "metric", "verdict"}
MEGABYTES = Style("MB", 1e-6, 1)


def render(verdict: Verdict, fmt: str) -> str:
    """The verdict in the format `fmt`. Raises: ConfigError for an unknown one."""
    writers: dict[str, Callable[[], str]] = {
        "text": lambda: _as_text(_document(verdict)),
        "md": lambda: as_markdown(_document(verdict)),
        "json": lambda: json.dumps(_as_dict(verdict), indent=2),
        "junit": lambda: _as_junit(verdict),
    }
    check_format(fmt)
    return writers[fmt]().rstrip("\n")


def check_format(fmt: str) -> None:
    """Raises: ConfigError for an unknown one."""
    if fmt not in FORMATS:
        raise ConfigError(unknown_name("format", fmt, known=FORMATS, where="--format"))


# -- for people ------------------------------------------------------------------------------------


def _document(verdict: Verdict) -> Document:
    worse = [_line(c) for c in verdict.compared if c.outcome is Outcome.WORSE]
    found = {outcome: [*_lines(verdict, outcome)] for outcome in Outcome}
    sections = [
        _listed("Worse", [*worse, *found[Outcome.WORSE]]),
        _listed("Cannot be judged", found[Outcome.UNJUDGED]),
        _listed("Notes", verdict.notes),
        Section(title="Compared", blocks=_table(verdict) if verdict.compared else []),
    ]
    return Document(
        title=f"Check of {verdict.suite}: {verdict.outcome}",
        summary=[f"Commit {_short(verdict.commit)} against {_about(verdict)}"],
        sections=[section for section in sections if section.blocks],
    )


def _about(verdict: Verdict) -> str:
    reference = verdict.reference
    return (
        f"the reference of commit {_short(reference.commit)}, {reference.date[:10]} "
        f"({reference.reason})"
    )


def _short(commit: str) -> str:
    """The first twelve digits, and whether there were uncommitted changes."""
    hashed, dirty, _ = commit.partition("-dirty")
    return f"{hashed[:12]}{dirty}" if hashed else "unknown"


def _lines(verdict: Verdict, outcome: Outcome) -> Iterator[str]:
    for finding in verdict.findings:
        if finding.outcome is outcome:
            yield " ".join(part for part in (finding.method, _named(finding)) if part)


def _named(finding: Finding) -> str:
    return f"{finding.what}: {finding.message}"


def _line(c: Compared) -> str:
    """As in "gim loss, nats: 2.100 ± 0.020 (8), now 2.310 ± 0.030 (3): +0.210 where …"."""
    style, found = _style(c.metric), c.found
    return (
        f"{c.method} {c.metric}, {style.unit}: {_summary(found.reference, style)}, now "
        f"{_summary(found.now, style)}: {_signed(found.difference, style)} where "
        f"{show(found.tolerance, None, style)} is tolerated"
    )


def _listed(title: str, lines: Sequence[str]) -> Section:
    return Section(title=title, blocks=[Bullets(lines)] if lines else [])


def _table(verdict: Verdict) -> list[Block]:
    """What is worse comes first."""
    columns = [Column(heading=h, numeric=h not in TEXT_COLUMNS) for h in HEADINGS]
    ordered = sorted(verdict.compared, key=lambda c: c.outcome is not Outcome.WORSE)
    legend = (
        f"Means ± standard deviation over seeds (their number). Worse is what exceeds its "
        f"tolerance; detects: the smallest true change that is noticed with about {POWER:.0%} "
        f"power. {len(ordered)} comparisons share a chance of {FALSE_ALARMS:.0%} "
        f"({verdict.level:.2g} each): in a check of unchanged code "
        f"{FALSE_ALARMS:g} false alarms are to be expected."
    )
    return [Table(columns=columns, rows=[_row(c) for c in ordered]), legend]


def _row(c: Compared) -> list[str]:
    style, found = _style(c.metric), c.found
    return [
        c.method,
        f"{c.metric}, {style.unit}",
        _summary(found.reference, style),
        _summary(found.now, style),
        _signed(found.difference, style),
        show(found.tolerance, None, style),
        show(found.detectable, None, style),
        str(c.outcome),
    ]


def _style(metric: str) -> Style:
    return MEGABYTES if describe(metric).unit == BYTES else style_of(metric)


def _summary(summary: Summary, style: Style) -> str:
    return f"{show(summary.mean, summary.std, style)} ({summary.n})"


def _signed(value: float, style: Style) -> str:
    return f"{value * style.factor:+,.{style.decimals}f}"


def _as_text(document: Document) -> str:
    """Plain paragraphs and aligned columns."""
    parts = [document.title, *map(_plain, document.summary)]
    for section in document.sections:
        parts += [f"{section.title}\n" + "\n\n".join(map(_plain, section.blocks))]
    return "\n\n".join(parts)


def _plain(block: Block) -> str:
    match block:
        case Table():
            return _aligned(block)
        case Bullets():
            return "\n".join(f"  {item}" for item in block.items)
        case Figure():
            return block.title  # drawings are for the page
        case str():
            return block


def _aligned(table: Table) -> str:
    cells = [[column.heading for column in table.columns], *table.rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  "
        + "  ".join(
            cell.rjust(width) if column.numeric else cell.ljust(width)
            for cell, column, width in zip(row, table.columns, widths, strict=True)
        ).rstrip()
        for row in cells
    )


# -- for programs ----------------------------------------------------------------------------------


def _as_dict(verdict: Verdict) -> dict[str, Any]:
    """Values in the metrics' own units."""
    reference = verdict.reference
    return {
        "suite": verdict.suite,
        "outcome": verdict.outcome,
        "commit": verdict.commit,
        "reference": reference.model_dump(mode="json", include={"reason", "date", "commit"}),
        "level": verdict.level,
        "compared": [_compared_dict(c) for c in verdict.compared],
        "findings": [
            {"method": f.method, "what": f.what, "outcome": f.outcome, "message": f.message}
            for f in verdict.findings
        ],
        "notes": list(verdict.notes),
    }


def _compared_dict(c: Compared) -> dict[str, Any]:
    kind, found = kind_of(c.metric), c.found
    assert kind is not None
    return {
        "method": c.method,
        "metric": c.metric,
        "unit": describe(c.metric).unit,
        "kind": kind.name,
        "reference": _numbers(found.reference),
        "now": _numbers(found.now),
        "difference": found.difference,
        "tolerance": found.tolerance,
        "detectable": found.detectable,
        "outcome": c.outcome,
    }


def _numbers(summary: Summary) -> dict[str, float | int | None]:
    return {"mean": summary.mean, "std": summary.std, "n": summary.n}


def _as_junit(verdict: Verdict) -> str:
    """A test case for each method and metric, and for each finding."""
    cases = [*map(_case_of_metric, verdict.compared), *map(_case_of_finding, verdict.findings)]
    suite = ET.Element(
        "testsuite",
        name=f"gim_bench check {verdict.suite}",
        tests=str(len(cases)),
        failures=str(verdict.outcomes.count(Outcome.WORSE)),
        errors=str(verdict.outcomes.count(Outcome.UNJUDGED)),
    )
    about = one_line(_about(verdict))  # XML has no word for some characters, escaped or not
    for classname, name, outcome, found in cases:
        message = one_line(found)
        case = ET.SubElement(
            suite, "testcase", classname=f"{verdict.suite}.{classname}".rstrip("."), name=name
        )
        if outcome is not Outcome.PASSES:
            tag = "failure" if outcome is Outcome.WORSE else "error"
            ET.SubElement(case, tag, message=message).text = f"{message}; {about}"
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


Case = tuple[str, str, Outcome, str]


def _case_of_metric(c: Compared) -> Case:
    return c.method, c.metric, c.outcome, _line(c)


def _case_of_finding(finding: Finding) -> Case:
    return finding.method, finding.what, finding.outcome, finding.message
