"""The picture of `block_latency.py`: predicted against measured, one panel for each runtime and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetero_devices.files import atomic_file

_WAYS = {"half of the blocks interpolated": ("#9aa3b2", "x"), "measured blocks": ("#2563c9", "o")}


def plot(path: Path, kinds: dict[str, Any]) -> None:
    """Write a PNG. kinds: by name, the fields of `block_latency.json`."""
    matplotlib.use("Agg")
    figure = Figure(figsize=(3.4 * len(kinds), 3.6), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for panel, (name, kind) in zip(panels, kinds.items(), strict=True):
        _panel(panel, name, kind)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _panel(panel: Axes, name: str, kind: dict[str, Any]) -> None:
    for way, (colour, marker) in _WAYS.items():
        points = kind[way]["networks"]
        measured, predicted = ([p[f"{what}_ms"] for p in points] for what in ("measured", "predicted"))
        panel.plot(measured, predicted, marker, color=colour, markersize=4, linestyle="", label=way)
    low, high = min(*panel.get_xlim(), *panel.get_ylim()), max(*panel.get_xlim(), *panel.get_ylim())
    panel.plot((low, high), (low, high), color="#131722", linewidth=0.8, linestyle=":")
    panel.set_xlabel("measured p50, ms", fontsize=8)
    panel.set_ylabel("predicted, ms", fontsize=8)
    panel.set_title(f"{name}: ρ = {kind['measured blocks']['spearman']['value']:.3f}", loc="left", fontsize=9)
    panel.tick_params(labelsize=7)
    panel.legend(fontsize=6, loc="upper left")
