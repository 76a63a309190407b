"""The picture of `objectives.py`: asymmetric and symmetric mAP with intervals, one panel a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetero.retrieval import MAP
from hetero_devices.files import atomic_file

_ASYMMETRIC, _SYMMETRIC, _CONTROL = "#2563c9", "#8a5cc2", "#9aa3b2"
_PARAGON = "anchor on both sides"


def plot(path: Path, data: dict[str, dict[str, Any]]) -> None:
    """Write a PNG. data: by data set, {"rows": `objectives_table.fields`, "references": likewise}."""
    matplotlib.use("Agg")
    longest = max(len(_shown(part)) for part in data.values())
    figure = Figure(figsize=(6.2 * len(data), 1.6 + 0.24 * longest), layout="constrained")
    panels = figure.subplots(1, len(data), squeeze=False)[0]
    for panel, (name, part) in zip(panels, data.items(), strict=True):
        _panel(panel, name, part)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _panel(panel: Axes, name: str, part: dict[str, Any]) -> None:
    rows = _shown(part)
    for place, fields in enumerate(rows.values()):
        colour = _CONTROL if fields["control"] else _ASYMMETRIC
        _point(panel, fields[f"symmetric {MAP}"], place, _SYMMETRIC, "o", "white")
        _point(panel, fields[f"asymmetric {MAP}"], place, colour, "o", colour)
    paragon = part["references"][_PARAGON][f"asymmetric {MAP}"]
    panel.axvline(100 * paragon["value"], color="#131722", linewidth=1, linestyle=":")
    panel.set_yticks(range(len(rows)), list(rows), fontsize=8)
    panel.invert_yaxis()
    panel.grid(axis="x", color="#e3e6ec", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.set_xlabel(
        "mAP, percent: ● in the anchor's gallery (grey: control)   ○ in its own   ┊ anchor", fontsize=8
    )
    panel.set_title(name, loc="left", fontsize=10)


def _point(panel: Axes, estimate: dict[str, float], place: int, colour: str, marker: str, fill: str) -> None:
    low, value, high = (100 * estimate[end] for end in ("low", "value", "high"))
    panel.plot((low, high), (place, place), color=colour, linewidth=1.2, alpha=0.7)
    panel.plot((value,), (place,), marker, color=colour, markerfacecolor=fill, markersize=5)


def _shown(part: dict[str, Any]) -> dict[str, Any]:
    return {name: fields for name, fields in part["rows"].items() if "refused" not in fields}
