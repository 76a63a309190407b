"""The report's content as titled tables and sentences, shared by the HTML, Markdown and terminal writers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hetero.report import wording
from hetero.report.device_tables import devices, devices_in_short, drift, runs
from hetero.report.model import HOST, PlacementRow, Report, Versus
from hetero.report.table import Table, Text, row_of
from hetero.retrieval.matrix import Cell, Matrix
from hetero.retrieval.metrics import display_name


def verdict(report: Report) -> str:
    """What was found, in a few words; the first line of every report."""
    if report.summary:
        return report.summary
    if report.criterion is None:
        return _gates_verdict(report) if report.runs else "No compatibility criterion was tested"
    return f"The compatibility criterion {'holds' if report.criterion.holds else 'does not hold'}"


def _gates_verdict(report: Report) -> str:
    failed = sum(not gate.passed for gate in report.gates)
    count = len({run.device for run in report.runs})
    where = f"{count} device" + ("s" if count > 1 else "")
    return (
        f"{failed} of {len(report.gates)} gates fail on {where}"
        if failed
        else f"Every gate passes on {where}"
    )


def findings(report: Report) -> list[str]:
    """The sentences under the verdict."""
    sentences = [*report.sentences, *([report.criterion.sentence] if report.criterion else [])]
    if report.retention:
        kept = (
            f"{wording.percent(report.retention.value)} % (95 % interval {wording.bounds(report.retention)})"
        )
        sentences.append(f"Against the anchor's own gallery the student keeps {kept} of the anchor's score.")
    sentences += [_own_gallery(report.versus[0])] if report.versus else []
    if report.gates:
        passed = sum(gate.passed for gate in report.gates)
        sentences.append(f"{passed} of {len(report.gates)} gates passed.")
    return sentences


def _own_gallery(versus: Versus) -> str:
    """Whether the anchor's gallery serves the student better than one of its own would."""
    difference = versus.comparison.difference
    verdict = "no difference beyond chance"
    if difference.low > 0:
        verdict = "the anchor's gallery serves it better"
    elif difference.high < 0:
        verdict = "its own gallery would serve it better"
    return (
        f"Against a search in {versus.other} the student's {display_name(versus.metric)} changes by "
        f"{wording.points(difference)} points: {verdict}."
    )


def brief(report: Report) -> list[Table]:
    """What fits a terminal: the result, the gates, and one line an artefact."""
    short = devices_in_short(report) if report.runs else artefacts(report)
    shown = (*report.tables, headline(report), gates_in_short(report), short)
    return [table for table in shown if table.rows]


def gates_in_short(report: Report) -> Table:
    """`gates` without the last column, the detail."""
    full = gates(report)
    return replace(full, columns=full.columns[:-1], rows=tuple(row[:-1] for row in full.rows))


def artefacts(report: Report) -> Table:
    """Parity and latency of each artefact in one line; a dash where it was not measured."""
    measured = {(row.artefact, row.device): (row.p50_ms, row.size_kb) for row in report.latency}
    rows = tuple(
        row_of(
            row.artefact,
            wording.percent(row.top1_identical, 2),
            wording.points(row.recall_delta),
            *map(wording.quantity, measured.get((row.artefact, row.device), (None, None))),
        )
        for row in report.parity
        if row.device == HOST
    )
    columns = ("artefact", "top-1 as torch %", "Δ Recall@1, points", "p50 ms", "kB")
    return Table("Exported artefacts, searching the anchor's gallery", "", columns, rows)


def tables(report: Report) -> list[Table]:
    """Every table that has rows, in reading order."""
    found = [
        *report.tables,
        headline(report),
        gates(report),
        *(matrix(each) for each in report.matrices),
        *measurements(report),
        facts("Data", report.data),
        facts("Environment", report.environment),
    ]
    return [table for table in found if table.rows]


def measurements(report: Report) -> list[Table]:
    """What was compared and measured besides the result, the gates and the matrices."""
    return [
        devices(report),
        versus(report),
        parity(report),
        flips(report),
        drift(report),
        runs(report),
        latency(report),
        placement(report),
        galleries(report),
        models(report),
    ]


def headline(report: Report) -> Table:
    scores = report.headline
    columns = ("search", "M(query, gallery)", "score % (95 % interval)")
    if scores is None:
        return Table("Result", "", columns, ())
    rows = (
        row_of("Paragon", "anchor, anchor", wording.scored(scores.paragon)),
        row_of("Asymmetric", "student, anchor", wording.scored(scores.asymmetric)),
        row_of("Symmetric", "student, student", wording.scored(scores.symmetric)),
        row_of("Symmetric, trained alone", "student*, student*", wording.scored(scores.alone)),
    )
    return Table(f"Result: {display_name(scores.metric)}", "", columns, rows)


def versus(report: Report) -> Table:
    """Paired by query; a difference whose interval contains 0 is not called better or worse."""
    note = "The student's queries in the anchor's gallery, minus each other search, query by query."
    columns = ("asymmetric search against", "metric", "difference, points", "won", "lost", "p", "test")
    rows = tuple(
        row_of(
            row.other,
            display_name(row.metric),
            wording.points(row.comparison.difference),
            str(row.comparison.wins),
            str(row.comparison.losses),
            wording.quantity(row.comparison.p_value),
            row.comparison.test,
        )
        for row in report.versus
    )
    return Table("What asymmetric search gains and loses", note, columns, rows)


def gates(report: Report) -> Table:
    rows = tuple(
        (
            Text(gate.name),
            Text("✓ pass", "good") if gate.passed else Text("✗ fail", "bad"),
            Text(wording.measured(gate)),
            Text(wording.requirement(gate)),
            Text(gate.detail),
        )
        for gate in report.gates
    )
    note = "What the exported artefact must reach before it counts as done."
    return Table("Gates", note, ("gate", "result", "measured", "required", "detail"), rows)


def matrix(each: Matrix) -> Table:
    """Rows are query models, columns gallery models; see `cell_text` for the marks."""
    note = "Rows: query model. Columns: gallery model. Percent, with 95 % interval."
    if any(cell and cell.across_spaces for row in each.cells for cell in row):
        note += " ≠: the two models share no space; shown as the chance level."
    columns = ("query ↓ gallery →", *each.galleries)
    rows = tuple(
        (Text(name), *(Text(cell_text(cell)) for cell in cells))
        for name, cells in zip(each.queries, each.cells, strict=True)
    )
    return Table(f"Compatibility matrix: {display_name(each.metric)}", note, columns, rows)


def cell_text(cell: Cell | None) -> str:
    if cell is None:
        return "– (other dimension)"
    return wording.scored(cell.estimate) + (" ≠" if cell.across_spaces else "")


def parity(report: Report) -> Table:
    note = (
        "Each artefact against the float model it was exported from, searching the anchor's gallery. "
        "Differences in percentage points, paired over queries, with 95 % interval."
    )
    cosine = ("1 − cosine: mean", "median", "p99", "max", "max |error|")
    search = ("top-1 identical %", "Δ Recall@1", "Δ mAP", "top-10 overlap %")
    rows = tuple(
        row_of(
            row.artefact,
            row.format,
            row.precision,
            f"{row.cosine_distance_mean:.1e}",
            f"{row.cosine_distance_median:.1e}",
            f"{row.cosine_distance_p99:.1e}",
            f"{row.cosine_distance_max:.1e}",
            f"{row.max_abs_error:.1e}",
            wording.percent(row.top1_identical, 2),
            wording.points(row.recall_delta),
            wording.points(row.map_delta),
            wording.percent(row.top10_overlap, 1),
        )
        for row in report.parity
    )
    columns = ("artefact", "format", "precision", *cosine, *search)
    return Table("Parity of the exported artefacts", note, columns, rows)


def flips(report: Report) -> Table:
    note = (
        "Queries whose first result is right in float and wrong in the artefact (negative), and the reverse."
    )
    rows = tuple(
        row_of(
            row.artefact,
            wording.scored(row.recall),
            str(row.queries),
            str(row.negative_flips),
            str(row.positive_flips),
            wording.percent(row.negative_flips / row.queries, 2),
        )
        for row in report.parity
    )
    columns = ("artefact", "Recall@1 %", "queries", "negative flips", "positive flips", "negative %")
    return Table("Queries flipped by the export", note, columns, rows)


def placement(report: Report) -> Table:
    note = (
        "Operators that ran, after the runtime's own optimisation. Float layers: convolutions and matrix "
        "products computed in float."
    )
    rows = tuple(_placement_row(row) for row in report.placement)
    columns = ("artefact", "device", "operators", "partitions", "not delegated", "integer", "float")
    return Table("Operator placement", note, (*columns, "conversions", "float layers"), rows)


def _placement_row(row: PlacementRow) -> tuple[Text, ...]:
    where = row.placement
    return row_of(
        row.artefact,
        row.device,
        wording.counts(where.backends),
        wording.NONE if where.partitions is None else str(where.partitions),
        wording.NONE if where.partitions is None else wording.counts(where.fallback),
        str(where.integer),
        str(where.floating),
        str(where.conversions),
        wording.counts(where.float_layers),
    )


def galleries(report: Report) -> Table:
    note = (
        "A float query against decoded gallery vectors. Differences to the float32 gallery in percentage "
        "points, paired over queries, with 95 % interval."
    )
    rows = tuple(
        row_of(
            row.codec,
            row.query,
            str(row.bytes_per_vector),
            wording.scored(row.recall),
            wording.points(row.recall_delta, 2),
            wording.points(row.map_delta, 2),
        )
        for row in report.galleries
    )
    columns = ("gallery", "query", "bytes a vector", "Recall@1 %", "Δ Recall@1", "Δ mAP")
    return Table("Compressed galleries", note, columns, rows)


def latency(report: Report) -> Table:
    columns = ("artefact", "device", "runtime", "threads", "p50 ms", "p90 ms", "p95 ms", "peak MB", "size kB")
    rows = tuple(
        row_of(
            row.artefact,
            row.device,
            row.runtime,
            str(row.threads),
            *(wording.quantity(x) for x in (row.p50_ms, row.p90_ms, row.p95_ms, row.peak_mb, row.size_kb)),
        )
        for row in report.latency
    )
    return Table("Latency and size", "One image at a time, in a process of its own.", columns, rows)


def models(report: Report) -> Table:
    roles = {"anchor": "anchor", "student": "student", "alone": "student trained alone"}
    rows = tuple(
        row_of(
            row.name,
            roles[row.role],
            wording.count(row.macs),
            wording.count(row.parameters),
            wording.NONE if row.mac_ratio is None else f"{wording.quantity(row.mac_ratio)}×",
        )
        for row in report.models
    )
    return Table("Models", "", ("model", "role", "MACs", "parameters", "fewer MACs than anchor"), rows)


def facts(title: str, pairs: Mapping[str, str]) -> Table:
    return Table(title, "", ("what", "value"), tuple(row_of(name, value) for name, value in pairs.items()))
