"""The report of a run: typed data, written as one HTML page, Markdown, JSON, or to the terminal."""

from hetero.report.files import read, write
from hetero.report.model import (
    HOST,
    DeviceRun,
    Figure,
    GalleryRow,
    Gate,
    Headline,
    LatencyRow,
    ModelRow,
    ParityRow,
    PlacementRow,
    Report,
    Versus,
)
from hetero.report.terminal import show

__all__ = [
    "HOST",
    "DeviceRun",
    "Figure",
    "GalleryRow",
    "Gate",
    "Headline",
    "LatencyRow",
    "ModelRow",
    "ParityRow",
    "PlacementRow",
    "Report",
    "Versus",
    "read",
    "show",
    "write",
]
