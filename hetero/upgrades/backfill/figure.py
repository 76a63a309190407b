"""Backfill curves as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

from hetero.retrieval import display_name
from hetero.upgrades.backfill.curve import Curve
from hetero_devices.errors import require


def curves_png(curves: Sequence[Curve], old_system: float | None = None) -> bytes:
    """A PNG of the curves of one metric; dotted: the old system."""
    require("matplotlib", "train")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, curve in enumerate(curves):
        label = f"{curve.order} (area {100 * curve.areas.mean:.1f})"
        axes.plot(100 * curve.shares, 100 * curve.means, color=f"C{number}", marker=".", label=label)
    if old_system is not None:
        axes.axhline(100 * old_system, color="#131722", linewidth=1, linestyle=":", label="old system")
    axes.set(xlabel="share of the gallery re-embedded, %", ylabel=f"{display_name(curves[0].metric)}, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
