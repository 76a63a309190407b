"""The report on disk: a page to read, Markdown to commit, JSON to compute with."""

from __future__ import annotations

from pathlib import Path

from hetero.report import html, markdown
from hetero.report.model import Report
from hetero_devices.files import atomic_file, read_json, write_json


def write(report: Report, folder: Path) -> Path:
    """Write report.html, report.md and report.json, each whole or not at all; returns the HTML's path."""
    page, text = html.render(report), markdown.render(report)  # both before the first file is touched
    for name, content in (("report.html", page), ("report.md", text)):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    write_json(folder / "report.json", report.to_json())
    return folder / "report.html"


def read(path: Path) -> Report:
    """The report of a report.json, or of the folder it is in; HeteroError when it is none."""
    return Report.from_json(read_json(path / "report.json" if path.is_dir() else path))
