"""The full graph of an upgrade, of real artefacts: two clouds, two phones, int8 files on both runtimes.

Omniglot. Version 1: a cloud model trained on 15 alphabets, and a phone's student in its space. Version 2: a
larger cloud model trained on all alphabets into the same space by the library's default for upgrades, its
paragon without regard of version 1, and a phone's student of it. Both students are exported in int8 for ONNX
Runtime and LiteRT. Every query model searches every gallery of unseen alphabets, one drawer a character.
Writes results/graph.{json,md}, and the report with its matrices into work/. Killed at any moment, the same
command continues.

    python benchmarks/graph.py --root DATA
    python benchmarks/graph.py --root DATA --scale full --device cuda
    python benchmarks/graph.py --root DATA --scale trial           a few steps: does it run?
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

import results
import sharing
import upgrade
from hetero import report as reports
from hetero.recipes.resolve import resolve
from hetero.report.markdown import render
from hetero.runs import Run
from hetero.upgrades.graph import graph
from hetero.upgrades.graph_report import graph_report
from hetero.upgrades.graph_sources import Artefacts, paragon, sources
from hetero.upgrades.pictures import TestImages
from hetero_export.loop import export_run


@dataclass(frozen=True)
class Scale:
    """Networks of the old cloud, the new cloud and the phones; steps of clouds and of phones."""

    old: str
    new: str
    phone: str
    cloud_steps: int
    phone_steps: int
    more: tuple[str, ...] = ()


SCALES = {
    "default": Scale("elastic-m", "residual-s", "elastic-xs", 2500, 2500, ("anchor.fit.precision=fp32",)),
    "full": Scale("residual-m", "residual-l", "elastic-m", 40000, 60000),
    "trial": Scale("residual-s", "residual-s", "elastic-xs", 4, 4, ("data.rotations=false",)),
}


class Bench:
    """The runs of both versions."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.scale = options, SCALES[options.scale]
        self.folder = results.WORK / "graph" / f"omniglot-{options.scale}"

    def run(self, name: str, *changes: str) -> Run:
        scale = self.scale
        given = [
            *("data.validation_share=0.1", "student.views=2", "student.alone=false", "gates.criterion=false"),
            *("anchor.fit.batch=64", "student.fit.batch=64", f"anchor.fit.steps={scale.cloud_steps}"),
            *("export.precisions=[fp32,int8]", f"student.network={scale.phone}"),
            f"student.fit.steps={scale.phone_steps}",
            *scale.more,
            *sharing.given(self.options),
        ]
        return Run.open(self.folder / name, resolve("omniglot", [*given, *changes]))

    def first(self) -> Run:
        """Version 1: cloud and phone."""
        few = f"data.train_classes={upgrade.old_classes('omniglot', self.options)}"
        return self.run("v1", few, f"anchor.network={self.scale.old}")

    def cloud(self, first: Run) -> Run:
        """The new cloud model, whose anchor is the old one; and its paragon."""
        changes = [
            f"anchor.source={first.folder / 'anchor'}",
            f"student.network={self.scale.new}",
            f"student.fit.steps={self.scale.cloud_steps}",
            "student.fit.precision=bf16",
            "student.alone=true",
        ]
        return self.run("v2-cloud", *changes, sharing.UPGRADE)

    def second(self, cloud: Run) -> Run:
        """Version 2: the new cloud, and a phone's student of it."""
        return self.run("v2", f"anchor.source={cloud.folder / 'student'}")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    first = bench.first()
    _ = first.whole_anchor, first.student
    cloud = bench.cloud(first)
    _ = cloud.student, cloud.alone
    second = bench.second(cloud)
    for run in (first, second):
        export_run(run)
    page = _evaluated(bench, first, cloud, second)
    print(page)


def _evaluated(bench: Bench, first: Run, cloud: Run, second: Run) -> Path:
    """The report in HTML, and the committed figures."""
    versions, work = {"v1": first.folder, "v2": second.folder}, bench.folder / "shards"
    rows, galleries = sources(versions, [], None, Artefacts(), work)
    best = {"v2": paragon(cloud.folder / "alone", TestImages.of_run(first), work)}
    report = graph_report(graph(rows, galleries, best))
    stamp = results.stamp(f"python benchmarks/graph.py --scale {bench.options.scale}", "omniglot", 0)
    name = results.named("graph", bench.options, True)
    table = render(report)
    results.write(name, {"stamp": stamp, "report": report.to_json()}, table)
    return reports.write(report, bench.folder / "report")


def _options() -> argparse.Namespace:
    parser = sharing.parser(__doc__, SCALES, ["omniglot"])
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
