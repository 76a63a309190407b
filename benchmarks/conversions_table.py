"""The page of `conversions.py`: networks, cells, and what was refused or failed, in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from conversions_cells import LOSSY, MIXED, Cell
from conversions_data import CALIBRATION, TEST, VIEWS

_ABOUT = (
    "Trained for at most 240 steps of 32 images on 64 px glyphs (fewer where a step is dear, see the "
    "networks' table), then batch normalisation settled at the size given. int8 is calibrated on "
    f"{CALIBRATION} training images. {TEST * VIEWS} queries of {TEST} other classes, one gallery image each. "
    "Cosine to torch: mean / lowest of the queries. Same first: queries whose first gallery image stays. "
    "R@1: of the file's queries against torch's gallery. Size and CPU are ratios to the float32 file of the "
    "same format; CPU ms is processor time of one image (one thread, median), taken while the machine was "
    f"busy with other work. Where int8 is refused or its lowest cosine is below {LOSSY}, as far as tried: "
    "`corrected`, int8 of the network mended by `student.quantised` (equalisation, AdaRound, bias "
    "correction; no training), "
    f"and `mixed`, at most {MIXED.max_macs:.0%} of the multiply-accumulates in float32."
)


def table(networks: Mapping[str, Any], cells: list[Cell]) -> str:
    """Markdown: a row for each network and each cell, then each failure in the converter's own words."""
    failed = [cell for cell in cells if "error" in cell]
    refused = [cell for cell in cells if "refused" in cell]
    kept = len(cells) - len(failed) - len(refused)
    lines = [
        "# Conversions",
        "",
        f"{kept} of {len(cells)} cells convert and keep the space; {len(refused)} convert and are refused, "
        f"because they lose it (1 - cosine above 0.1 on a golden image); {len(failed)} do not convert. "
        f"{_ABOUT}",
        "",
        "| network | source | px | parameters | MMACs | steps | CPU s | loss | R@1 | spread |",
        f"|{'---|' * 10}",
        *(_network(name, about) for name, about in networks.items()),
        "",
        "R@1 and spread, the mean cosine between different queries, are torch's.",
        "",
        "| network | format | precision | converts | cosine | same first | R@1 | kB | size | CPU ms | CPU "
        "| XNNPACK parts |",
        f"|{'---|' * 12}",
        *map(_row, cells),
        "",
    ]
    for title, chosen, field in (("Refusals", refused, "refused"), ("Failures", failed, "error")):
        if chosen:
            lines += [f"## {title}", ""]
            lines += [f"* {c['net']}, {c['format']} {c['precision']}: {c[field]}" for c in chosen]
            lines.append("")
    return "\n".join(lines)


def _network(name: str, about: Mapping[str, Any]) -> str:
    return (
        f"| {name} | {about['source']} | {about['size']} | {about['parameters'] / 1e6:.2f} M "
        f"| {about['macs'] / 1e6:.0f} | {about['steps']:.0f} | {about['seconds']:.0f} | {about['loss']:.1f} "
        f"| {100 * about['recall_at_1']:.1f} % | {about['spread']:.3f} |"
    )


def _row(cell: Cell) -> str:
    about = f"| {cell['net']} | {cell['format']} | {_precision(cell)} "
    if "error" in cell:
        return f"{about}| **no** | | | | | | | | |"
    parts = cell["xnnpack_partitions"]
    return (
        f"{about}| {'**refused**' if 'refused' in cell else 'yes'} "
        f"| {cell['cosine_mean']:.5f} / {cell['cosine_min']:.5f} "
        f"| {100 * cell['top1_same']:.1f} % | {100 * cell['recall_at_1']:.1f} % "
        f"| {cell['bytes'] / 1000:.0f} | {cell['bytes_ratio']:.2f} "
        f"| {cell['ms']:.2f} | {cell['latency_ratio']:.2f} | {'' if parts is None else parts} |"
    )


def _precision(cell: Cell) -> str:
    if "layers_float" not in cell:
        return str(cell["precision"])
    share = f"{cell['layers_float']} of {cell['layers']} layers, {cell['macs_float']:.0%} of MACs in float32"
    return f"{cell['precision']}: {share}"
