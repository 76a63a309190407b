"""What converts: networks x formats x precisions, by the product's own export path.

Each network gets random weights (nothing is downloaded) and is exported as `hetero export` does:
preprocessing and unit norm inside, int8 calibrated on training glyphs. A cell says whether that worked, and
where it did: the cosine to torch, whether queries embedded by the file find the same first image in a gallery
embedded by torch, the size, and the processor time as a ratio to the float32 file of the format.
Every network is converted in a process of its own, so that a converter that dies takes one cell with it.
Writes results/conversions.{json,md}. Killed at any moment, the same command continues.

    python benchmarks/conversions.py                       96 px, half an hour on two cores
    python benchmarks/conversions.py --size 224            longer
    python benchmarks/conversions.py --nets 'ResNet-18;MobileNetV2'
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import results
from conversions_nets import NETS, make
from hetero.data.glyphs import GlyphRecipe, load_glyphs
from hetero.data.imageset import Images
from hetero.models.store import Model
from hetero_devices import runtimes
from hetero_devices.bundle import MANIFEST, Bundle, Precision
from hetero_devices.devices.measure import timed
from hetero_devices.errors import HeteroError
from hetero_devices.files import read_json, write_json
from hetero_devices.runtimes import Format, Session
from hetero_devices.verify import cosine_distance
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration

Vectors = npt.NDArray[np.float32]
Cell = dict[str, Any]

FORMATS: tuple[Format, ...] = ("onnx", "tflite")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
CLASSES, CALIBRATION, GOLDEN = 48, 32, 8
WARM_UP, ROUNDS = 5, 40
MINUTES = 120  # for one network; longer means a converter that hangs


@dataclass(frozen=True)
class Data:
    """Images of one size; queries and gallery show the same classes, none of them among the others."""

    calibration: Images
    golden: Images
    query: Images
    gallery: Images

    @classmethod
    def load(cls, size: int, seed: int) -> Data:
        splits = load_glyphs(
            GlyphRecipe(size=size, training=CLASSES // 2, test=CLASSES, per_class=2, seed=seed),
            validation_share=0,
        )
        train, plain = splits.train.images, splits.test.groups == 0
        return cls(
            train[:CALIBRATION],
            train[CALIBRATION : CALIBRATION + GOLDEN],
            splits.test.images[~plain],
            splits.test.images[plain],
        )


@dataclass(frozen=True)
class Work:
    """Where the cells of one network lie."""

    root: Path
    net: str
    formats: tuple[Format, ...]

    def cell(self, format: Format, precision: Precision) -> Path:
        return self.folder / f"{format}-{precision}.json"

    @property
    def folder(self) -> Path:
        return self.root / self.net.replace("/", "-").replace(", ", "-")

    def begun(self, format: Format) -> bool:
        """Whether a cell of the format is there already: its precisions are then made one by one."""
        return any(self.cell(format, precision).is_file() for precision in PRECISIONS)

    def missing(self) -> list[tuple[Format, Precision]]:
        return [(f, p) for f in self.formats for p in PRECISIONS if not self.cell(f, p).is_file()]


def main() -> None:
    options = _options()
    root = options.work / f"{options.size}-seed{options.seed}"
    formats = tuple(options.format or FORMATS)
    if options.convert:
        convert(Work(root, options.convert, formats), options.size, options.seed)
        return
    works = [Work(root, net, formats) for net in options.nets]
    for work in works:
        _apart(work, options)
    cells = [read_json(work.cell(f, p)) for work in works for f in formats for p in PRECISIONS]
    page = table(cells)
    print(page)
    command = f"python benchmarks/conversions.py --size {options.size} --seed {options.seed}"
    if options.nets != list(NETS):
        command += f" --nets '{';'.join(options.nets)}'"
    fields = {
        "stamp": results.stamp(command, "generated glyphs; random weights", options.seed),
        "cells": cells,
    }
    results.write("conversions", fields, page, options.results)


def _apart(work: Work, options: argparse.Namespace) -> None:
    """Fill a network's cells in processes of their own; a process that dies costs the cell it was at."""
    needs = NETS[work.net].needs
    while missing := work.missing():
        format, precision = missing[0]
        if needs and find_spec(needs) is None:
            _write(work, format, precision, {"error": f"{needs} is not installed"})
            continue
        print(f"{work.net}: {len(missing)} cells to go", flush=True)
        command = [sys.executable, __file__, "--convert", work.net, "--size", str(options.size)]
        command += ["--seed", str(options.seed), "--work", str(options.work)]
        command += [part for name in work.formats for part in ("--format", name)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 * MINUTES)
            if done.returncode in (-signal.SIGTERM, -signal.SIGINT):
                sys.exit("interrupted: run the same command again to continue")  # no fault of the converter
            said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            problem = f"the process died: {said[0]}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"took longer than {MINUTES} minutes"
        if problem:
            format, precision = work.missing()[0]
            _write(work, format, precision, {"error": problem})


def convert(work: Work, size: int, seed: int) -> None:
    """Fill the missing cells of one network, in this process."""
    torch.set_num_threads(1)
    net = NETS[work.net]
    data = Data.load(net.size or size, seed)
    model = make(net, data.calibration, net.size or size, seed)
    expected = model.encoder.encode(data.query), model.encoder.encode(data.gallery)
    about = {
        "size": net.size or size,
        "spread": _spread(expected[0]),
        "parameters": model.cost.parameters,
        "macs": model.cost.macs,
    }
    for format, precision in work.missing():
        try:
            found = _measured(
                _exported(work, model, format, precision, data), format, precision, data, expected
            )
        except HeteroError as error:
            found = {"error": " ".join(str(error).split())}
        _write(work, format, precision, about | found)


def _exported(work: Work, model: Model, format: Format, precision: Precision, data: Data) -> Bundle:
    """A bundle with this file and the float32 one; all precisions in one, unless one of them fails."""
    together, alone = work.folder / format, work.folder / f"{format}-{precision}"
    for folder in (together, alone):
        if (folder / MANIFEST).is_file():
            return Bundle.open(folder)
    if not work.begun(format):
        with suppress(HeteroError):
            return _bundle(work, model, format, PRECISIONS, data, together)
    precisions: tuple[Precision, ...] = ("fp32",) if precision == "fp32" else ("fp32", precision)
    return _bundle(work, model, format, precisions, data, alone)


def _bundle(
    work: Work, model: Model, format: Format, precisions: tuple[Precision, ...], data: Data, folder: Path
) -> Bundle:
    return write_bundle(
        model,
        folder,
        name=work.net,
        calibration=Calibration(data.calibration),
        golden=data.golden,
        source={"benchmark": "conversions"},
        formats=(format,),
        precisions=precisions,
    )


def _measured(
    bundle: Bundle, format: Format, precision: Precision, data: Data, expected: tuple[Vectors, Vectors]
) -> Cell:
    torch_query, torch_gallery = expected
    file = bundle.model(format, precision)
    session = runtimes.load(bundle.path(file))
    found = session.run(data.query)
    cosine = 1 - cosine_distance(found, torch_query)
    same = (found @ torch_gallery.T).argmax(1) == (torch_query @ torch_gallery.T).argmax(1)
    float32 = runtimes.load(bundle.path(bundle.model(format, "fp32")))
    return {
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "top1_same": float(same.mean()),
        "bytes": file.bytes,
        "bytes_ratio": file.bytes / bundle.model(format, "fp32").bytes,
        "xnnpack_partitions": session.details["xnnpack_partitions"],
        **_by_turns(session, float32, data.query),
    }


def _by_turns(session: Session, float32: Session, images: Images) -> Cell:
    """Median CPU milliseconds of single images, both files in turn, and the ratio of the medians.

    Processor time: other work on the machine stretches the clock on the wall tenfold, this hardly.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(WARM_UP + ROUNDS):
        image = images[round_ % len(images)][None]
        for own, run in zip(times, (session, float32), strict=True):
            action = partial(run.run, image)
            own.append(timed(action, time.process_time_ns)[1])
    own_ms, float_ms = (float(np.median(own[WARM_UP:])) for own in times)
    return {"ms": own_ms, "ms_fp32": float_ms, "latency_ratio": own_ms / float_ms}


def _spread(vectors: Vectors) -> float:
    """Mean cosine between different images: 0 where embeddings differ, 1 where they all coincide."""
    count = len(vectors)
    return float((np.square(vectors.sum(0)).sum() - count) / (count * (count - 1)))


def _write(work: Work, format: Format, precision: Precision, fields: Cell) -> None:
    cell = {"net": work.net, "format": format, "precision": precision} | fields
    write_json(work.cell(format, precision), cell)


_ABOUT = (
    f"Random weights, batch normalisation settled on {CALIBRATION} glyphs, int8 calibrated on the "
    f"same; {CLASSES} queries, a gallery of as many. Cosine to torch: mean / lowest. Same first: "
    "queries whose first gallery image stays. Spread: mean cosine between different images in "
    "torch; near 1, random weights leave little to tell images apart, and 'same first' is harder "
    "than with a trained network. Size and latency are ratios to the float32 file of the same "
    "format; latency is processor time (one thread, median), taken while the machine was busy with "
    "other work."
)


def table(cells: list[Cell]) -> str:
    """Markdown: a row for each cell, then each failure in the converter's own words."""
    failed = [cell for cell in cells if "error" in cell]
    refused = [cell for cell in failed if _refused(cell)]
    lines = [
        "# Conversions",
        "",
        f"{len(cells) - len(failed)} of {len(cells)} cells convert and keep the space; "
        f"{len(refused)} convert and are refused, because they lose it (1 - cosine above 0.1 on a golden "
        f"image). {_ABOUT}",
        "",
        "| network | px | spread | format | precision | converts | cosine | same first | kB | size | CPU ms "
        "| latency | XNNPACK parts |",
        f"|{'---|' * 13}",
        *map(_row, cells),
        "",
    ]
    if failed:
        lines += ["## Refusals and failures", ""]
        lines += [f"* {c['net']}, {c['format']} {c['precision']}: {c['error']}" for c in failed]
        lines.append("")
    return "\n".join(lines)


def _row(cell: Cell) -> str:
    about = (
        f"| {cell['net']} | {cell.get('size', '')} | {_number(cell.get('spread'), '.3f')} "
        f"| {cell['format']} | {cell['precision']} "
    )
    if "error" in cell:
        return f"{about}| **{'refused' if _refused(cell) else 'no'}** | | | | | | | |"
    parts = cell["xnnpack_partitions"]
    return (
        f"{about}| yes | {cell['cosine_mean']:.5f} / {cell['cosine_min']:.5f} "
        f"| {100 * cell['top1_same']:.1f} % | {cell['bytes'] / 1000:.0f} | {cell['bytes_ratio']:.2f} "
        f"| {cell['ms']:.2f} | {cell['latency_ratio']:.2f} | {'' if parts is None else parts} |"
    )


def _refused(cell: Cell) -> bool:
    """Converted, and then kept from being written: `hetero_export.tolerance` says so in these words."""
    return "loses the space" in cell.get("error", "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _nets(text: str) -> list[str]:
    """Names joined by semicolons."""
    names = [name.strip() for name in text.split(";")]
    for name in names:
        if name not in NETS:
            near = get_close_matches(name, NETS, n=1, cutoff=0)
            raise argparse.ArgumentTypeError(f"there is no network {name!r}; the nearest is {near[0]!r}")
    return names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", type=_nets, default=list(NETS), help="names joined by semicolons")
    parser.add_argument("--format", choices=FORMATS, action="append", help="only this one")
    parser.add_argument("--size", type=int, default=96, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=results.WORK / "conversions")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument("--convert", choices=NETS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
