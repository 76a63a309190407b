"""The pictures of `lqf.py`: accuracy by shots, and accuracy on validation images by learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hetero_devices.files import atomic_file

_COLOURS = {
    "head": "#9aa3b2",
    "gradients": "#d08a2e",
    "finetune": "#131722",
    "finetune-mse": "#6b7280",
    "lqf": "#2563c9",
    "lqf-relu": "#3fa7a0",
    "lqf-ce": "#8a5cc2",
    "lqf-sgd": "#c2415c",
}


def plot(path: Path, data: dict[str, list[dict[str, Any]]]) -> None:
    """Write a PNG: a column a data set. data: by data set, `lqf_table.fields`."""
    matplotlib.use("Agg")
    figure = Figure(figsize=(6.4 * len(data), 8), layout="constrained")
    panels = figure.subplots(2, len(data), squeeze=False)
    for column, (name, cells) in enumerate(data.items()):
        _shots(panels[0][column], name, cells)
        _rates(panels[1][column], cells)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _shots(panel: Axes, name: str, cells: list[dict[str, Any]]) -> None:
    places = {shots: place for place, shots in enumerate(dict.fromkeys(cell["shots"] for cell in cells))}
    for method in dict.fromkeys(cell["method"] for cell in cells):
        own = [cell for cell in cells if cell["method"] == method]
        x = [places[cell["shots"]] for cell in own]
        y = [100 * cell["accuracy"]["value"] for cell in own]
        panel.plot(x, y, marker="o", markersize=4, label=method, color=_COLOURS[method])
    panel.set_xticks(list(places.values()), [str(shots) for shots in places])
    panel.set(xlabel="training images a class", ylabel="test accuracy, %")
    panel.set_title(name, loc="left", fontsize=10)
    panel.legend(fontsize=8)


def _rates(panel: Axes, cells: list[dict[str, Any]]) -> None:
    """At the middle number of shots; a method's rates as multiples of its best."""
    numbers = list(dict.fromkeys(cell["shots"] for cell in cells))
    middle = numbers[len(numbers) // 2]
    for cell in cells:
        if cell["shots"] == middle and len(cell["rates"]) > 1 and cell["method"] != "head":
            x = [float(rate) / cell["rate"] for rate in cell["rates"]]
            y = [100 * score for score in cell["rates"].values()]
            panel.plot(x, y, marker="o", markersize=4, label=cell["method"], color=_COLOURS[cell["method"]])
    panel.set_xscale("log")
    panel.set(xlabel="learning rate, as a multiple of the best", ylabel="validation accuracy, %")
    panel.set_title(f"{middle} training images a class", loc="left", fontsize=10)
