"""What each precision, calibration and finish for int8 costs in retrieval, size and time, on both runtimes.

Omniglot (unseen alphabets, a gallery of one drawer) and Caltech-101 (classes 0-49 train, 50-99 test). A data
set has one anchor and one float student a seed; every row is that student, exported in another way, searching
the anchor's gallery. Losses are against the float student, paired by query. The constants of every row are
the product's defaults; nothing is chosen by the test classes. Writes results/quantisation*.{json,md}. Each
bundle and each scoring is kept in work/, so that the same command continues after a kill.

    python benchmarks/quantisation.py --root DATA
    python benchmarks/quantisation.py --root DATA --scale full --device cuda
    python benchmarks/quantisation.py --root DATA --data omniglot --seeds 1
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import results
import sharing
from hetero.models.encoder import RuntimeEncoder, embed
from hetero.models.store import DESCRIPTION
from hetero.progress import track
from hetero.recipes.resolve import resolve
from hetero.retrieval import RECALL_AT_1, PerQuery, evaluate
from hetero.runs import Run
from hetero.runs.measuring import measure
from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.devices import HostDevice
from hetero_devices.errors import ModelError
from hetero_devices.files import atomic_file, write_json
from hetero_devices.runtimes import Format
from hetero_devices.space import Embeddings
from hetero_export.loop import export_run
from quantisation_table import METRICS, Cell, fields, table

PLAIN = "plain"
VARIANTS: dict[str, tuple[str, ...]] = {
    PLAIN: ("export.precisions=[fp32,fp16,dynamic,int8]",),
    "percentile": ("export.calibration.method=percentile",),
    "entropy": ("export.calibration.method=entropy",),
    "squared error": ("export.calibration.method=mse",),
    "mixed": ("export.precisions=[mixed]",),
    "corrected": ("student.quantised={corrections: [equalise, adaround, bias], fit: null}",),
    "trained": ("student.quantised={}",),
    "trained, label-free": ("student.quantised={teacher: student, objective: [{term: regression}]}",),
}
"""Recipe changes; all but the first two kinds export int8 alone."""

NOTHING = PerQuery(RECALL_AT_1, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

COMMON = {
    "default": ("student.network=elastic-m", "student.fit.batch=64", "student.views=2"),
    "full": ("anchor.network=residual-l", "anchor.fit.batch=256", "student.fit.batch=256", "student.views=8"),
    "trial": ("student.network=elastic-xs", "anchor.network=residual-s", "student.views=1"),
}
OF_DATA = {
    "omniglot": {
        "default": ("anchor.network=residual-s", "anchor.fit.steps=3000", "student.fit.steps=2500"),
        "full": ("anchor.fit.steps=60000", "student.fit.steps=60000"),
        "trial": ("data.rotations=false", "anchor.fit.steps=4", "student.fit.steps=4"),
    },
    "caltech101": {
        "default": (
            "data.size=48",
            "anchor.network=residual-s",
            "anchor.fit.steps=2000",
            "student.network=elastic-m",
            "student.fit.steps=1200",
        ),
        "full": ("anchor.fit.steps=20000", "student.fit.steps=30000"),
        "trial": ("data.size=32", "anchor.fit.steps=4", "student.fit.steps=4"),
    },
}


class Bench:
    """One data set and seed: the float student and its exports."""

    def __init__(self, data: str, seed: int, options: argparse.Namespace) -> None:
        self.data, self.seed, self.options = data, seed, options
        self.folder = results.WORK / "quantisation" / f"{data}-{options.scale}"

    @cached_property
    def anchor(self) -> str:
        """The folder of the anchor, shared by all seeds."""
        scale = self.options.scale
        recipe = (*COMMON[scale], *OF_DATA[self.data][scale])
        return sharing.anchor(self.folder, self.data, self.options, recipe)

    def variant(self, name: str) -> Run:
        """The run of a variant; it shares the anchor of the data set and the student of the seed."""
        run = self._run(f"seed{self.seed}-{name.replace(', ', '-').replace(' ', '-')}", *VARIANTS[name])
        if name != PLAIN and not (run.folder / "student" / DESCRIPTION).is_file():
            _ = self.variant(PLAIN).student
            copy = run.folder / "student.copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(self.variant(PLAIN).folder / "student", copy)
            copy.rename(run.folder / "student")
        return run

    def _run(self, name: str, *changes: str) -> Run:
        scale = self.options.scale
        given = [*COMMON[scale], *OF_DATA[self.data][scale], "export.precisions=[int8]", f"seed={self.seed}"]
        given += [f"{part}.fit.device={self.options.device}" for part in ("anchor", "student")]
        if self.options.root:
            given.append(f"data.root={self.options.root}")
        given += [*changes, f"anchor.source={self.anchor}"]
        return Run.open(self.folder / name, resolve(self.data, given))

    def cells(self, name: str) -> list[Cell]:
        """The exports of a variant, scored; done once."""
        path = self.folder / f"cells-{self.seed}-{name}.npz"
        if not path.exists():
            save(path, self._scored(name))
        return load(path)

    def _scored(self, name: str) -> list[Cell]:
        run = self.variant(name)
        gallery = run.anchor.embed("test", run.test.gallery)
        found = []
        for exported in exports(run):
            if isinstance(exported, Refusal):
                found.append(Cell(exported.format, "int8", name, 0, {}, exported.reason))
            else:
                found += [self._cell(run, name, exported, m, gallery) for m in exported.manifest.models]
        if name == PLAIN:
            query = embed(run.student.encoder, run.test.query)
            found.insert(0, Cell("torch", "fp32", name, 0, _values(query, gallery)))
        return found

    def _cell(self, run: Run, name: str, bundle: Bundle, model: ModelFile, gallery: Embeddings) -> Cell:
        encoder = RuntimeEncoder(bundle.path(model), run.anchor.space, run.preprocessing)
        values = _values(embed(encoder, run.test.query), gallery)
        return Cell(model.format, model.precision, name, model.bytes, values)

    def measured(self, name: str) -> list[dict[str, Any]]:
        """Latency and placement of a variant's artefacts, all in one run of the plain bundle and itself."""
        bundles = {v: export_run(self.variant(v)) for v in dict.fromkeys((PLAIN, name))}
        rows = []
        for variant, bundle in bundles.items():
            models = [m for m in bundle.manifest.models if variant == name or m.precision == "fp32"]
            latency, placement = measure(
                bundle, models, self.variant(PLAIN).recipe.measure, HostDevice(), ("latency", "placement")
            )
            for model, time, place in zip(models, latency, placement, strict=True):
                rows.append(
                    {"variant": variant, "format": model.format, "precision": model.precision}
                    | {"p50_ms": time.p50_ms, "delegated": place.placement.delegated_share}
                    | {"placement": asdict(place.placement)}
                )
        return rows


@dataclass(frozen=True)
class Refusal:
    """The exporter refused a format, in its own words."""

    format: str
    reason: str


def exports(run: Run) -> list[Bundle | Refusal]:
    """The run's bundle; where the exporter refuses it, a bundle or the refusal of each format by itself."""
    try:
        return [export_run(run)]
    except ModelError:
        return [_export_of(run, format) for format in run.recipe.export.formats]


def _export_of(run: Run, format: Format) -> Bundle | Refusal:
    config = run.recipe.export.model_copy(update={"formats": (format,)})
    try:
        return export_run(run, run.folder / f"bundle-{format}", config)
    except ModelError as error:
        return Refusal(format, str(error))


def _values(query: Embeddings, gallery: Embeddings) -> dict[str, PerQuery]:
    found = evaluate(query, gallery)
    return {metric: found.per_query(metric) for metric in METRICS}


def save(path: Path, cells: list[Cell]) -> None:
    """Query ids and labels once, values by cell and metric, and what the cells are."""
    first = next((cell.values[RECALL_AT_1] for cell in cells if cell.values), NOTHING)
    columns: dict[str, Any] = {
        f"{i}/{m}": values.values for i, cell in enumerate(cells) for m, values in cell.values.items()
    }
    names = json.dumps([[c.format, c.precision, c.variant, c.bytes, c.refused] for c in cells])
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, query_ids=first.query_ids, labels=first.labels, cells=np.array(names), **columns)


def load(path: Path) -> list[Cell]:
    """What `save` wrote."""
    with np.load(path) as stored:
        ids, labels = stored["query_ids"], stored["labels"]
        return [
            Cell(
                format,
                precision,
                variant,
                size,
                {m: PerQuery(m, ids, labels, stored[f"{i}/{m}"]) for m in METRICS if f"{i}/{m}" in stored},
                *refused,
            )
            for i, (format, precision, variant, size, *refused) in enumerate(json.loads(str(stored["cells"])))
        ]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    benches = {data: [Bench(data, seed, options) for seed in range(options.seeds)] for data in options.data}
    tasks = [(bench, name) for of_data in benches.values() for bench in of_data for name in VARIANTS]
    for bench, name in track(tasks, "exports"):
        bench.cells(name)
    parts = {}
    for data, of_data in benches.items():
        cells = [[cell for name in VARIANTS for cell in bench.cells(name)] for bench in of_data]
        parts[data] = (cells, _timings(of_data[0]))
    page = _INTRODUCTION.format(seeds=options.seeds) + "".join(
        table(data, cells, timings) for data, (cells, timings) in parts.items()
    )
    command = f"python benchmarks/quantisation.py --scale {options.scale} --seeds {options.seeds}"
    stamp = results.stamp(command, ", ".join(options.data), 0)
    found = {data: fields(cells, timings) for data, (cells, timings) in parts.items()}
    results.write(_name(options), {"stamp": stamp, "data": found}, page)
    print(page)


def _timings(bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """By variant; int8 has one graph however its numbers were found, so it is timed once."""
    path = bench.folder / "timings.json"
    if not path.exists():
        write_json(path, {name: bench.measured(name) for name in (PLAIN, "mixed")})
    found: dict[str, list[dict[str, Any]]] = json.loads(path.read_text())
    return found


_INTRODUCTION = """# Quantisation: what each way to int8 costs

The float student, exported in every way, searches the anchor's gallery. Percent, with 95 % bootstrap
intervals over {seeds} training seeds and over test classes; losses are differences to the float student in
torch, paired by query. Size and median latency (seed 0, one thread, batch 1) relative to fp32 of the same
format, measured in one run. XNNPACK: share of the operators that it executes, of LiteRT files.
"""


def _name(options: argparse.Namespace) -> str:
    whole = tuple(options.data) == tuple(OF_DATA)
    return results.named("quantisation", options, whole)


def _options() -> argparse.Namespace:
    parser = sharing.parser(__doc__, COMMON, OF_DATA)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
