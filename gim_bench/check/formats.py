"""A verdict for people (text, Markdown), for programs (JSON) and for CI servers (JUnit's XML).

Formats of services that keep histories are in `trackers`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

from gim_bench.check.exact import ADVICE, Repeat
from gim_bench.check.judge import Compared, Verdict
from gim_bench.check.outcome import Outcome
from gim_bench.check.tolerance import FALSE_ALARMS, POWER, kind_of
from gim_bench.check.trackers import TRACKERS
from gim_bench.errors import ConfigError, one_line, unknown_name
from gim_bench.records.statistics import Summary
from gim_bench.report.columns import BYTES, Style, show, signed, style_of, with_unit
from gim_bench.report.document import (
    Answer,
    Block,
    Bullets,
    Column,
    Document,
    Figure,
    Picture,
    Section,
    Table,
)
from gim_bench.report.markdown import as_markdown

VERDICTS = ("text", "json", "junit", "md", "comment")
LONGEST_COMMENT = 65_000  # characters; GitHub takes 65,536
FORMATS = (*VERDICTS, *TRACKERS)
HEADINGS = ("method", "metric", "reference", "now", "difference", "tolerance", "detects", "verdict")
EXACT_HEADINGS = ("method", "metric", "seeds", "changed", "largest change", "verdict")
TEXT_COLUMNS = {"method", "metric", "seeds", "changed", "verdict"}
TOO_LONG = "Too long for a comment: `check --format md` prints them."
MEGABYTES = Style("MB", 1e-6, 1)


def render(verdict: Verdict, fmt: str) -> str:
    """The verdict in the format `fmt`. Raises: ConfigError for an unknown format."""
    writers: dict[str, Callable[[], str]] = {
        "text": lambda: _as_text(_document(verdict)),
        "md": lambda: as_markdown(_document(verdict)),
        "comment": lambda: _as_comment(verdict),
        "json": lambda: json.dumps(_as_dict(verdict), indent=2),
        "junit": lambda: _as_junit(verdict),
    }
    check_format(fmt)
    return writers[fmt]().rstrip("\n")


def check_format(fmt: str) -> None:
    """Raises: ConfigError for an unknown format."""
    if fmt not in FORMATS:
        raise ConfigError(unknown_name("format", fmt, known=FORMATS, where="--format"))


# -- for people ------------------------------------------------------------------------------------


def _document(verdict: Verdict) -> Document:
    found: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    for r in verdict.repeats:
        found[r.outcome].append(_changes(r))
    for c in verdict.compared:
        found[c.outcome].append(_line(c))
    for finding in verdict.findings:
        line = f"{finding.method} {finding.what}: {finding.message}".lstrip()
        found[finding.outcome].append(line)
    advice = [ADVICE] if any(r.changes for r in verdict.repeats) else []
    sections = {
        "Worse": [*found[Outcome.WORSE], *advice],
        "Cannot be judged": found[Outcome.UNJUDGED],
        "Notes": verdict.notes,
    }
    return Document(
        title=f"Check of {verdict.suite}: {verdict.outcome}",
        summary=[f"Commit {_short(verdict.commit)} against {_about(verdict)}"],
        sections=[
            *(Section(title=t, blocks=[Bullets(lines)]) for t, lines in sections.items() if lines),
            *([_repeats(verdict.repeats)] if verdict.repeats else []),
            *([_comparisons(verdict)] if verdict.compared else []),
        ],
    )


def _about(verdict: Verdict) -> str:
    reference = verdict.reference
    return (
        f"the reference of commit {_short(reference.commit)}, {reference.date[:10]} "
        f"({reference.reason})"
    )


def _short(commit: str) -> str:
    """The first twelve digits of the commit, and "-dirty" for uncommitted changes."""
    hashed, dirty, _ = commit.partition("-dirty")
    return f"{hashed[:12]}{dirty}" if hashed else "unknown"


def _line(c: Compared) -> str:
    """A comparison: "gim loss, nats: 2.1 ± 0.02 (8), now 2.3 ± 0.03 (3): +0.2 where …"."""
    style, found = _style(c), c.found
    return (
        f"{c.method} {with_unit(c.metric, style.unit)}: {_summary(found.reference, style)}, now "
        f"{_summary(found.now, style)}: {signed(found.difference, style)} where "
        f"{show(found.tolerance, None, style)} is tolerated"
    )


def _changes(repeat: Repeat) -> str:
    """Each changed seed with both values, to the last bit: "gim loss: seed 0 was 2.1, is 2.3"."""
    changes = ", ".join(f"seed {c.seed} was {c.before!r}, is {c.now!r}" for c in repeat.changes)
    return f"{repeat.method} {repeat.metric}: {changes}"


def _repeats(repeats: Sequence[Repeat]) -> Section:
    """A row for each metric that was compared bit for bit, changed ones first."""
    rows = [
        [
            r.method,
            r.metric,
            ", ".join(map(str, r.seeds)),
            ", ".join(str(c.seed) for c in r.changes) or "none",
            f"{max((abs(c.now - c.before) for c in r.changes), default=0):.3g}",
            str(r.outcome),
        ]
        for r in sorted(repeats, key=lambda r: not r.changes)
    ]
    legend = (
        "The machine and the versions of packages are the reference's, so a seed repeats every "
        "accuracy and loss to the last bit if the code is unchanged."
    )
    columns = [Column(heading=h, numeric=h not in TEXT_COLUMNS) for h in EXACT_HEADINGS]
    return Section(title="Bit for bit", blocks=[Table(columns=columns, rows=rows), legend])


def _comparisons(verdict: Verdict) -> Section:
    """A row for each comparison, worse ones first."""
    ordered = sorted(verdict.compared, key=lambda c: c.outcome is not Outcome.WORSE)
    rows = []
    for c in ordered:
        style, found = _style(c), c.found
        rows.append(
            [
                c.method,
                with_unit(c.metric, style.unit),
                _summary(found.reference, style),
                _summary(found.now, style),
                signed(found.difference, style),
                show(found.tolerance, None, style),
                show(found.detectable, None, style),
                str(c.outcome),
            ]
        )
    legend = (
        f"Means ± standard deviation over seeds (their number). Worse is what exceeds its "
        f"tolerance; detects: the smallest true change that is noticed with about {POWER:.0%} "
        f"power. {len(ordered)} comparisons share a chance of {FALSE_ALARMS:.0%} "
        f"({verdict.level:.2g} each): in a check of unchanged code "
        f"{FALSE_ALARMS:g} false alarms are to be expected."
    )
    columns = [Column(heading=h, numeric=h not in TEXT_COLUMNS) for h in HEADINGS]
    return Section(title="Compared", blocks=[Table(columns=columns, rows=rows), legend])


def _style(c: Compared) -> Style:
    style = MEGABYTES if c.unit == BYTES else style_of(c.metric)
    return style if style.unit else style._replace(unit=c.unit)


def _summary(summary: Summary, style: Style) -> str:
    return f"{show(summary.mean, summary.std, style)} ({summary.n})"


def _as_text(document: Document) -> str:
    """Plain paragraphs and aligned columns."""
    parts = [document.title, *map(_plain, document.summary)]
    for section in document.sections:
        parts += [f"{section.title}\n" + "\n\n".join(map(_plain, section.blocks))]
    return "\n\n".join(parts)


def _plain(block: Block) -> str:
    match block:
        case Answer():
            return f"{block.question} {block.paragraph()}"
        case Table():
            return _aligned(block)
        case Bullets():
            return "\n".join(f"  {item}" for item in block.items)
        case Figure() | Picture():
            return block.title  # only the page has drawings
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


def marker(suite: str) -> str:
    """The hidden line by which a later check of the suite finds its comment on a pull request."""
    return f"<!-- gim_bench check {suite} -->"


def _as_comment(verdict: Verdict) -> str:
    """Markdown after the marker; without the tables where GitHub would refuse the length."""
    document = _document(verdict)
    text = f"{marker(verdict.suite)}\n{as_markdown(document)}"
    if len(text) <= LONGEST_COMMENT:
        return text
    lists = [s for s in document.sections if not any(isinstance(b, Table) for b in s.blocks)]
    short = replace(document, sections=[*lists, Section(title="Tables", blocks=[TOO_LONG])])
    return f"{marker(verdict.suite)}\n{as_markdown(short)}"[:LONGEST_COMMENT]


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
        "repeats": [
            {
                "method": r.method,
                "metric": r.metric,
                "unit": r.unit,
                "seeds": list(r.seeds),
                "changes": [
                    {"seed": c.seed, "reference": c.before, "now": c.now} for c in r.changes
                ],
                "outcome": r.outcome,
            }
            for r in verdict.repeats
        ],
        "compared": [
            {
                "method": c.method,
                "metric": c.metric,
                "unit": c.unit,
                "kind": kind.name,
                "reference": _numbers(c.found.reference),
                "now": _numbers(c.found.now),
                "difference": c.found.difference,
                "tolerance": c.found.tolerance,
                "detectable": c.found.detectable,
                "outcome": c.outcome,
            }
            for c in verdict.compared
            if (kind := kind_of(c.metric, unit=c.unit)) is not None
        ],
        "findings": [
            {"method": f.method, "what": f.what, "outcome": f.outcome, "message": f.message}
            for f in verdict.findings
        ],
        "notes": list(verdict.notes),
    }


def _numbers(summary: Summary) -> dict[str, float | int | None]:
    return {"mean": summary.mean, "std": summary.std, "n": summary.n}


def _as_junit(verdict: Verdict) -> str:
    """A test case for each method, metric and way of comparing it, and for each finding."""
    cases = [
        *(
            (r.method, f"{r.metric}, bit for bit", r.outcome, f"{_changes(r)}: {ADVICE}")
            for r in verdict.repeats
        ),
        *((c.method, c.metric, c.outcome, _line(c)) for c in verdict.compared),
        *((f.method, f.what, f.outcome, f.message) for f in verdict.findings),
    ]
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
