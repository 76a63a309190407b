"""Accuracy against latency: one point for each artefact on each device, the best ones joined."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hetero.report.model import DeviceRun, Figure, ParityRow
from hetero.retrieval import Estimate
from hetero_devices.errors import require

_MARKERS = {"onnx": "o", "tflite": "s", "pte": "^"}


@dataclass(frozen=True)
class _Point:
    device: str
    label: str
    marker: str
    milliseconds: float
    recall: Estimate


def pareto_figure(parity: Sequence[ParityRow], runs: Sequence[DeviceRun]) -> Figure | None:
    """Recall@1 with interval over the median latency; None when nothing was both searched and timed."""
    points = _points(parity, runs)
    if not points:
        return None
    devices = ", ".join(dict.fromkeys(point.device for point in points))
    words = (
        f"{len(points)} artefacts on {devices}: Recall@1 over median latency; lines join the best of a device"
    )
    return Figure.of("Accuracy against latency", words, _draw(points))


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, value) that no other beats in both, by rising cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    kept: list[int] = []
    for index in order:
        if not kept or points[index][1] > points[kept[-1]][1]:
            kept.append(index)
    return kept


def _points(parity: Sequence[ParityRow], runs: Sequence[DeviceRun]) -> list[_Point]:
    searched = {(row.artefact, row.device): row for row in parity}
    found = []
    for run in runs:
        row, latency = searched.get((run.artefact, run.device)), run.profile.latency
        if row is not None and latency is not None:
            label = f"{row.format} {row.precision}"
            found.append(_Point(run.device, label, _MARKERS[row.format], latency.p50_ms, row.recall))
    return found


def _draw(points: Sequence[_Point]) -> bytes:
    require("matplotlib", "train")
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8, 4.5), layout="constrained")
    axes = canvas.subplots()
    for number, device in enumerate(dict.fromkeys(point.device for point in points)):
        own = [point for point in points if point.device == device]
        _draw_device(axes, own, f"C{number}", device)
    axes.set(xlabel="median latency of one image, ms", ylabel="asymmetric Recall@1, %", xscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(title="device")
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _draw_device(axes: Any, points: Sequence[_Point], colour: str, device: str) -> None:
    best = [points[i] for i in front([(p.milliseconds, p.recall.value) for p in points])]
    axes.plot([p.milliseconds for p in best], [100 * p.recall.value for p in best], color=colour, alpha=0.5)
    for point in points:
        place = point.milliseconds, 100 * point.recall.value
        error = [[place[1] - 100 * point.recall.low], [100 * point.recall.high - place[1]]]
        axes.errorbar(*place, error, color=colour, marker=point.marker, capsize=2)
        axes.annotate(point.label, place, (6, 4), textcoords="offset points", fontsize=7)
    axes.plot([], [], color=colour, marker="o", label=device)
