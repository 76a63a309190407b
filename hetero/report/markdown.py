"""The same report as Markdown, for a repository or a pull request."""

from __future__ import annotations

import json

from hetero.report import tables
from hetero.report.model import Report
from hetero.report.table import Table

_ESCAPED = str.maketrans(
    {**{c: f"\\{c}" for c in "\\`*_[]|#"}, "<": "&lt;", ">": "&gt;", "&": "&amp;", "\n": " "}
)


def render(report: Report) -> str:
    """The report as GitHub-flavoured Markdown. Names from the report are escaped."""
    parts = [
        f"# {_escape(report.title)}",
        f"{_escape(report.created)} · space `{report.space.id}`, {report.space.dim} dimensions",
        f"**{tables.verdict(report)}.**",
        "\n".join(f"- {_escape(sentence)}" for sentence in tables.findings(report)),
        *(section(table) for table in tables.tables(report)),
        _recipe(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _recipe(report: Report) -> str:
    if not report.recipe:
        return ""
    return f"## Recipe\n\n```json\n{json.dumps(report.recipe, indent=2, sort_keys=True)}\n```"


def section(table: Table) -> str:
    """One table under its title."""
    lines = [_line(table.columns), "|" + " --- |" * len(table.columns)]
    lines += [_line(tuple(cell.text for cell in row)) for row in table.rows]
    note = f"{_escape(table.note)}\n\n" if table.note else ""
    return f"## {_escape(table.title)}\n\n{note}" + "\n".join(lines)


def _line(texts: tuple[str, ...]) -> str:
    return "| " + " | ".join(_escape(text) for text in texts) + " |"


def _escape(text: str) -> str:
    return text.translate(_ESCAPED)
