"""What converts: networks x formats x precisions, by the product's own export path.

Each network is trained for seconds on generated glyphs (nothing is downloaded) and converted with the
exporters, checks and limits of `hetero export`: preprocessing and unit norm inside, int8 calibrated on
training images. A cell says whether that worked, and how far the file is from torch: the cosine, whether
queries embedded by the file find the same first image in a gallery embedded by torch, the size, and the
processor time as a ratio to the float32 file of the format. Where int8 loses much, two rescues are tried as
well: a student mended for int8, and mixed precision.
Every network is converted in a process of its own, so that a converter that dies takes one cell with it.
Writes results/conversions.{json,md}. Killed at any moment, the same command continues.

    python benchmarks/conversions.py                       96 px, under two hours on two cores
    python benchmarks/conversions.py --size 224            longer
    python benchmarks/conversions.py --nets 'ResNet-18;MobileNetV2'
    python benchmarks/conversions.py --rescues corrected   one rescue of int8 instead of both
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

import results
from conversions_cells import ALWAYS, RESCUES, Cell, Kind, Subject, Vectors, cell, rescues
from conversions_data import Data
from conversions_nets import NETS, Net, trained
from conversions_table import table
from hetero_devices.files import read_json, write_json
from hetero_devices.runtimes import Format

FORMATS: tuple[Format, ...] = ("onnx", "tflite")
LESSON_SIZE = 64  # pixels in training: half the time of 96
MINUTES = 120  # for one network; longer means a converter that hangs


@dataclass(frozen=True)
class Work:
    """Where the cells of one network lie."""

    root: Path
    net: str
    formats: tuple[Format, ...]
    rescues: tuple[Kind, ...] = RESCUES

    @property
    def folder(self) -> Path:
        return self.root / self.net.replace("/", "-").replace(", ", "-")

    def path(self, format: Format, kind: Kind) -> Path:
        return self.folder / f"{format}-{kind}.json"

    def read(self, format: Format, kind: Kind) -> Cell:
        fields: Cell = read_json(self.path(format, kind))
        return fields

    def write(self, format: Format, kind: Kind, fields: Cell) -> None:
        about = {"net": self.net, "format": format, "precision": kind}
        write_json(self.path(format, kind), about | fields)

    def wanted(self, format: Format) -> tuple[Kind, ...]:
        """The rescues are known once int8 is; one that is there already is kept."""
        if not self.path(format, "int8").is_file():
            return ALWAYS
        tried = rescues(self.read(format, "int8"))
        return (*ALWAYS, *(k for k in tried if k in self.rescues or self.path(format, k).is_file()))

    def missing(self) -> list[tuple[Format, Kind]]:
        return [(f, k) for f in self.formats for k in self.wanted(f) if not self.path(f, k).is_file()]

    def cells(self) -> list[Cell]:
        return [self.read(f, k) for f in self.formats for k in self.wanted(f)]


def main() -> None:
    options = _options()
    root = options.work / f"{options.size}-seed{options.seed}"
    formats = tuple(options.format or FORMATS)
    tried = tuple(options.rescues)
    if options.convert:
        convert(Work(root, options.convert, formats, tried), _net(options), options.seed)
        return
    works = [Work(root, net, formats, tried) for net in options.nets]
    for work in works:
        _apart(work, options)
    networks = {work.net: read_json(path) for work in works if (path := work.folder / ABOUT).is_file()}
    cells = [cell for work in works for cell in work.cells()]
    page = table(networks, cells)
    print(page)
    stamp = results.stamp(_command(options), "generated glyphs; networks trained for seconds", options.seed)
    fields = {"stamp": stamp, "networks": networks, "cells": cells}
    results.write("conversions", fields, page, options.results)


ABOUT = "network.json"


def _net(options: argparse.Namespace) -> Net:
    """The network to convert, at the size asked for unless it takes only its own."""
    net = NETS[options.convert]
    steps = net.steps if options.steps is None else min(net.steps, options.steps)
    return replace(net, size=net.size or options.size, steps=steps)


def _command(options: argparse.Namespace) -> str:
    command = f"python benchmarks/conversions.py --size {options.size} --seed {options.seed}"
    if options.steps is not None:
        command += f" --steps {options.steps}"
    if tuple(options.rescues) != RESCUES:
        command += f" --rescues {' '.join(options.rescues)}".rstrip()
    return command if options.nets == list(NETS) else f"{command} --nets '{';'.join(options.nets)}'"


def _apart(work: Work, options: argparse.Namespace) -> None:
    """Fill a network's cells in processes of their own; a process that dies costs the cell it was at."""
    needs = NETS[work.net].needs
    while missing := work.missing():
        if needs and find_spec(needs) is None:
            work.write(*missing[0], {"error": f"{needs} is not installed"})
            continue
        print(f"{work.net}: {len(missing)} cells to go", flush=True)
        if problem := _convert_apart(work, options):
            work.write(*work.missing()[0], {"error": problem})


def _convert_apart(work: Work, options: argparse.Namespace) -> str:
    """Run `convert` in a process; what went wrong, in words, or nothing."""
    command = [sys.executable, __file__, "--convert", work.net, "--size", str(options.size)]
    command += ["--seed", str(options.seed), "--work", str(options.work), "--rescues", *options.rescues]
    command += [part for name in work.formats for part in ("--format", name)]
    command += [] if options.steps is None else ["--steps", str(options.steps)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 * MINUTES)
    except subprocess.TimeoutExpired:
        return f"took longer than {MINUTES} minutes"
    if done.returncode in (-signal.SIGTERM, -signal.SIGINT):
        sys.exit("interrupted: run the same command again to continue")  # no fault of the converter
    said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    return f"the process died: {said[0]}" if done.returncode else ""


def convert(work: Work, net: Net, seed: int) -> None:
    """Fill the missing cells of one network, in this process."""
    torch.set_num_threads(1)
    subject = _subject(work, net, seed)
    while missing := work.missing():
        format, kind = missing[0]
        fp32 = work.read(format, "fp32") if kind != "fp32" else {}
        # Everything is made from the float32 file: without it, its error is that of all.
        broken = {"error": fp32["error"]} if "error" in fp32 else None
        work.write(format, kind, broken or cell(subject, format, kind))
    for file in (path for format in work.formats for path in work.folder.glob(f"*.{format}")):
        file.unlink()  # hundreds of megabytes, and quickly made again


def _subject(work: Work, net: Net, seed: int) -> Subject:
    """The trained network with its data; says in a file of its own what it is."""
    assert net.size is not None
    data = Data.load(net.size, seed)
    lessons = data.lessons if net.fixed or net.size < LESSON_SIZE else Data.load(LESSON_SIZE, seed).lessons
    weights = work.folder / "weights.safetensors"
    model, training = trained(net, lessons, data.settling, seed, weights)
    subject = Subject(model, data, work.folder)
    about = {
        "source": net.source,
        "size": net.size,
        "parameters": subject.deployed.cost.parameters,
        "macs": subject.deployed.cost.macs,
        **training,
        "recall_at_1": data.hits(subject.first(subject.query)),
        "spread": _spread(subject.query),
    }
    write_json(work.folder / ABOUT, about)
    return subject


def _spread(vectors: Vectors) -> float:
    """Mean cosine between different images: 0 where embeddings differ, 1 where they all coincide."""
    count = len(vectors)
    return float((np.square(vectors.sum(0)).sum() - count) / (count * (count - 1)))


def _nets(text: str) -> list[str]:
    """Names joined by semicolons."""
    names = [name.strip() for name in text.split(";")]
    for name in names:
        if name not in NETS:
            near = get_close_matches(name, NETS, n=1, cutoff=0)
            raise argparse.ArgumentTypeError(f"there is no network {name!r}; the nearest is {near[0]!r}")
    return names


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", type=_nets, default=list(NETS), help="names joined by semicolons")
    parser.add_argument("--format", choices=FORMATS, action="append", help="only this one")
    parser.add_argument("--size", type=int, default=96, help="pixels")
    parser.add_argument("--steps", type=_positive, help="of training, at most; default: each network's own")
    parser.add_argument(
        "--rescues", nargs="*", choices=RESCUES, default=RESCUES, help="tried on a lossy int8; both are slow"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=results.WORK / "conversions")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    parser.add_argument("--convert", choices=NETS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
