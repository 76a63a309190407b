"""The same report on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetero.report import tables
from hetero.report.model import Report
from hetero.report.table import Table
from hetero.retrieval.matrix import Matrix
from hetero_devices.errors import require

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

_STYLES = {"plain": "", "good": "green", "bad": "bold red"}


def show(report: Report, console: Console | None = None) -> None:
    """Print the verdict and the tables that fit; on standard output unless a console is given."""
    require("rich", "train")
    from rich.console import Console
    from rich.text import Text

    out = console or Console()
    judged = bool(report.runs or report.summary)
    holds = report.criterion.holds if report.criterion else judged and report.passed
    out.print(Text(report.title, style="bold"))
    out.print(Text(tables.verdict(report), style="bold green" if holds else "bold yellow"))
    for sentence in tables.findings(report):
        out.print(Text(sentence))
    for table in tables.brief(report):
        out.print()
        out.print(_table(table))


def print_matrix(matrix: Matrix, console: Console | None = None) -> None:
    """Print one compatibility matrix; on standard output unless a console is given."""
    require("rich", "train")
    from rich.console import Console

    (console or Console()).print(_table(tables.matrix(matrix)))


def _table(content: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(
        title=Text(content.title),
        caption=Text(content.note) if content.note else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE,
    )
    for column in content.columns:
        table.add_column(Text(column))
    for row in content.rows:
        table.add_row(*(Text(cell.text, style=_STYLES[cell.tone]) for cell in row))
    return table
