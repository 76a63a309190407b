"""One self-contained page: no script, no request to anywhere, readable on a phone, in the dark, and aloud."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from hetero.report import colours, tables, wording
from hetero.report.device_tables import devices
from hetero.report.model import Headline, Report
from hetero.report.table import Table, Text
from hetero.retrieval.intervals import Estimate
from hetero.retrieval.matrix import Cell, Matrix
from hetero.retrieval.metrics import display_name
from hetero_devices.errors import require

_STEPS = 24  # of the legend's gradient
_MANY_GATES = 40  # more of them hide what failed


@dataclass(frozen=True)
class _Tile:
    """One cell of a heat map: what it says, and how."""

    value: str
    bounds: str
    spoken: str
    style: str
    kind: str  # "", "across" or "absent": a CSS class


@dataclass(frozen=True)
class _HeatMap:
    title: str
    note: str
    galleries: tuple[str, ...]
    rows: tuple[tuple[str, tuple[_Tile, ...]], ...]
    gradient: str
    top: str


@dataclass(frozen=True)
class _Bar:
    """One line of the headline's chart; positions in percent of its width."""

    name: str
    pair: str
    value: str
    bounds: str
    position: float
    left: float
    width: float
    kind: str


def render(report: Report) -> str:
    """The report as one HTML document. Everything from the report is escaped."""
    jinja2 = require("jinja2", "train")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hetero.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page: str = environment.get_template("report.html.j2").render(
        report=report,
        verdict=tables.verdict(report),
        findings=tables.findings(report),
        bars=_bars(report.headline) if report.headline else (),
        metric=display_name(report.headline.metric) if report.headline else "",
        first=[table for table in (*report.tables, devices(report)) if table.rows],
        gates=_shown(tables.gates(report)),
        folded=_folded(tables.gates(report)),
        maps=[_heat_map(matrix) for matrix in report.matrices],
        measurements=[table for table in tables.measurements(report)[1:] if table.rows],
        recipe=json.dumps(report.recipe, indent=2, sort_keys=True) if report.recipe else "",
        facts=[tables.facts("Data", report.data), tables.facts("Environment", report.environment)],
    )
    return page


def _shown(gates: Table) -> Table:
    """All gates where they are few; else those that failed."""
    if len(gates.rows) <= _MANY_GATES:
        return gates
    return replace(gates, rows=tuple(row for row in gates.rows if not _passed(row)))


def _folded(gates: Table) -> Table:
    """The rest, shown when asked for."""
    if len(gates.rows) <= _MANY_GATES:
        return replace(gates, rows=())
    passed = tuple(row for row in gates.rows if _passed(row))
    return replace(gates, title=f"{len(passed)} gates that passed", rows=passed)


def _passed(row: tuple[Text, ...]) -> bool:
    return row[1].tone == "good"


def _heat_map(matrix: Matrix) -> _HeatMap:
    """Darker is more, from zero to the largest cell rounded up to a tenth."""
    table = tables.matrix(matrix)
    values = [cell.estimate.value for row in matrix.cells for cell in row if cell]
    top = max(1, -(-max(values, default=0) * 10 // 1)) / 10
    rows = tuple(
        (q, tuple(_tile(cell, q, g, top) for g, cell in zip(matrix.galleries, row, strict=True)))
        for q, row in zip(matrix.queries, matrix.cells, strict=True)
    )
    gradient = ", ".join(colours.scale(i / (_STEPS - 1)) for i in range(_STEPS))
    return _HeatMap(table.title, table.note, matrix.galleries, rows, gradient, wording.percent(top, 0))


def _tile(cell: Cell | None, query: str, gallery: str, top: float) -> _Tile:
    pair = f"query {query}, gallery {gallery}"
    if cell is None:
        return _Tile(wording.NONE, "other dimension", f"{pair}: dimensions differ", "", "absent")
    background = colours.scale(cell.estimate.value / top)
    style = f"background:{background};color:{colours.ink(background)}"
    value = wording.percent(cell.estimate.value) + (" ≠" if cell.across_spaces else "")
    spoken = f"{pair}: {wording.scored(cell.estimate)} %" + (
        ", no shared space" if cell.across_spaces else ""
    )
    return _Tile(value, wording.bounds(cell.estimate), spoken, style, "across" if cell.across_spaces else "")


def _bars(scores: Headline) -> tuple[_Bar, ...]:
    return (
        _bar("Paragon", "anchor searches anchor", scores.paragon, "paragon"),
        _bar("Asymmetric", "student searches anchor", scores.asymmetric, "asymmetric"),
        _bar("Symmetric", "student searches student", scores.symmetric, "symmetric"),
        _bar("Trained alone", "alone searches its own gallery", scores.alone, "alone"),
    )


def _bar(name: str, pair: str, estimate: Estimate, kind: str) -> _Bar:
    return _Bar(
        name,
        pair,
        wording.percent(estimate.value),
        wording.bounds(estimate),
        round(100 * estimate.value, 2),
        round(100 * estimate.low, 2),
        round(100 * (estimate.high - estimate.low), 2),
        kind,
    )
