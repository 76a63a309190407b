r"""One trained student, our export path and the stock ones: time, size, latency, retrieval.

The student (elastic-xs) and its anchor are trained on the embedded glyphs for some minutes. Every path
exports the same weights. Latency is end to end, from camera bytes to a unit embedding, one thread, all files
by turns in one process; the stock files get their pixels scaled in numpy, ours do it inside. Recall@1:
queries embedded by the file, gallery by the anchor. Writes results/export_peers.{json,md}.
Killed at any moment, the same command continues.

    python benchmarks/export_peers.py

onnx2tf pins other versions of our dependencies; installed apart, without them, it runs:

    pip install --no-deps --ignore-requires-python --target SITE \
        onnx2tf==2.6.9 sne4onnx==2.0.1 sng4onnx==2.0.1 psutil
    python benchmarks/export_peers.py --onnx2tf SITE
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import export_peers_paths as stock
import results
from hetero.data.imageset import Images
from hetero.models.encoder import embed
from hetero.recipes.resolve import resolve
from hetero.retrieval import RECALL_AT_1, evaluate, paired_difference
from hetero.runs import Run
from hetero_devices.devices.measure import timed
from hetero_devices.errors import require
from hetero_devices.files import read_json, write_json
from hetero_devices.space import Embeddings
from hetero_devices.verify import cosine_distance
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration
from hetero_export.choosing import balanced, spread
from hetero_export.quiet import quiet

Cell = dict[str, Any]
RECIPE = (
    "student.views=2",
    "student.alone=false",
    "gates.criterion=false",
)
CALIBRATION, QUERIES, WARM_UP, ROUNDS = 128, 1500, 20, 2000


@dataclass(frozen=True)
class Route:
    """One way to a file: `make` writes it; `ours`: it takes bytes, the others scaled pixels."""

    name: str
    file: str
    make: Callable[[Path], None]
    ours: bool = False

    def session(self, folder: Path) -> stock.FileSession:
        return stock.FileSession(folder / self.file, stock.as_bytes if self.ours else stock.scaled)


@dataclass(frozen=True)
class Job:
    """The student, what it is calibrated on, and where its files go."""

    run: Run
    folder: Path
    calibration: Images
    onnx2tf: Path | None

    def paths(self) -> list[Route]:
        """In order: a quantised file comes after the one that it is made from."""
        size, files, calibration = self.run.preprocessing.size, self.folder, self.calibration
        network = copy.deepcopy(self.run.student.deploy.network).eval().requires_grad_(False)
        onnx, tflite = files / "stock.onnx", files / "stock.tflite"
        return [
            *(self._ours(f, p) for f in ("onnx", "tflite") for p in ("fp32", "int8")),
            Route("torch.onnx.export", "stock.onnx", lambda to: stock.torch_onnx(network, size, to)),
            Route(
                "torch.onnx.export + quantize_static",
                "stock-static.onnx",
                lambda to: stock.onnx_static(onnx, to, calibration),
            ),
            Route(
                "torch.onnx.export + quantize_dynamic",
                "stock-dynamic.onnx",
                lambda to: stock.onnx_dynamic(onnx, to),
            ),
            Route("litert-torch", "stock.tflite", lambda to: stock.litert(network, size, to)),
            Route(
                "litert-torch + static_wi8_ai8",
                "stock-static.tflite",
                lambda to: stock.litert_quantised(tflite, to, "static_wi8_ai8", calibration),
            ),
            Route(
                "litert-torch + dynamic_wi8_afp32",
                "stock-dynamic.tflite",
                lambda to: stock.litert_quantised(tflite, to, "dynamic_wi8_afp32", None),
            ),
            Route("onnx2tf", "onnx2tf.tflite", lambda to: self._onnx2tf(onnx, to, None)),
            Route(
                "onnx2tf, full int8", "onnx2tf-int8.tflite", lambda to: self._onnx2tf(onnx, to, calibration)
            ),
        ]

    def _ours(self, format: Any, precision: Any) -> Route:
        """`hetero export` of this one file; int8 includes the making of the float32 it starts from."""

        def make(to: Path) -> None:
            bundle = write_bundle(
                self.run.student,
                self.folder / f"bundle-{format}-{precision}",
                name="export peers",
                calibration=Calibration(self.calibration),
                golden=spread(self.run.splits.train, 8),
                source={"benchmark": "export_peers"},
                formats=(format,),
                precisions=(precision,),
            )
            to.write_bytes(bundle.path(bundle.model(format, precision)).read_bytes())

        return Route(f"hetero {precision}", f"ours-{precision}.{format}", make, ours=True)

    def _onnx2tf(self, source: Path, to: Path, calibration: Images | None) -> None:
        if self.onnx2tf is None:
            raise FileNotFoundError("not installed; see the head of benchmarks/export_peers.py")
        stock.onnx2tf(source, to, self.onnx2tf, calibration)


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    run = Run.open(options.work / "run", resolve("demo", [*RECIPE, f"seed={options.seed}"]))
    calibration = balanced(run.splits.train, CALIBRATION, options.seed)
    job = Job(run, options.work / "files", calibration, options.onnx2tf)
    job.folder.mkdir(parents=True, exist_ok=True)
    _import_converters()
    query = run.test.query.select(_rows(len(run.test.query), options.seed))
    torch_query, gallery = embed(run.student.encoder, query), run.anchor.embed("test", run.test.gallery)
    cells = [_made(job, path) for path in job.paths()]
    there = {cell["file"] for cell in cells if "error" not in cell}
    sessions = {path.file: path.session(job.folder) for path in job.paths() if path.file in there}
    for cell in cells:
        if cell["file"] in sessions:
            cell |= _measured(sessions[cell["file"]], query.images, torch_query, gallery)
    latency = _latencies(sessions, query.images)
    reference = evaluate(torch_query, gallery).means["recall@1"]
    paragon = evaluate(run.anchor.embed("test", query), gallery).means["recall@1"]
    page = table(cells, latency, reference, paragon, len(query))
    print(page)
    stamp = results.stamp(
        "python benchmarks/export_peers.py --onnx2tf SITE", "generated glyphs", options.seed
    )
    fields = {"stamp": stamp, "recall_torch": reference, "recall_anchor": paragon}
    results.write("export_peers", fields | {"cells": cells, "latency_ms": latency}, page, options.results)


def _import_converters() -> None:
    """Before any clock starts: some take ten seconds to import."""
    with quiet():
        for module in ("litert_torch", "ai_edge_quantizer.quantizer", "onnxslim", "onnxscript"):
            require(module, "export")
        require("onnxruntime.quantization", "export")


def _rows(count: int, seed: int) -> npt.NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).permutation(count)[:QUERIES])


def _made(job: Job, path: Route) -> Cell:
    """Write one path's file, once; the seconds that took, or why it did not."""
    kept = job.folder / f"{path.file}.json"
    if kept.is_file():
        cell: Cell = read_json(kept)
        return cell
    cell = {"name": path.name, "file": path.file, "format": path.file.rpartition(".")[2]}
    try:
        with quiet():
            _, milliseconds = timed(lambda: path.make(job.folder / path.file))
            path.session(job.folder)
    except Exception as error:  # a stock path raises whatever it likes; the row says what
        cell["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    else:
        cell |= {"seconds": milliseconds / 1000, "bytes": _bytes(job.folder / path.file)}
    write_json(kept, cell)
    return cell


def _measured(
    session: stock.FileSession, images: Images, torch_query: Embeddings, gallery: Embeddings
) -> Cell:
    """Cosine to torch, Recall@1 in the anchor's gallery, and its change with an interval over classes."""
    vectors = session.run(images)
    cosine = 1 - cosine_distance(vectors, torch_query.vectors)
    query = Embeddings(vectors, torch_query.ids, torch_query.labels, torch_query.space)
    found, expected = (evaluate(side, gallery).per_query(RECALL_AT_1) for side in (query, torch_query))
    change = paired_difference(found, expected, clusters=found.labels).difference
    return {
        "cosine_mean": float(cosine.mean()),
        "cosine_min": float(cosine.min()),
        "recall": found.mean,
        "change": [change.value, change.low, change.high],
    }


def _bytes(path: Path) -> int:
    """Of the file and, where torch puts the weights beside it, of that one too."""
    parts = (path, path.with_name(f"{path.name}.data"))
    return sum(part.stat().st_size for part in parts if part.is_file())


def _latencies(sessions: dict[str, stock.FileSession], images: Images) -> dict[str, float]:
    """Median CPU milliseconds of each file, all by turns, image after image: busy machines stretch walls."""
    times: dict[str, list[float]] = {file: [] for file in sessions}
    for round_ in range(WARM_UP + ROUNDS):
        image = images[round_ % len(images)][None]
        turn = round_ % len(sessions)  # who goes first finds the coldest caches
        for file, session in [*list(sessions.items())[turn:], *list(sessions.items())[:turn]]:
            times[file].append(timed(partial(session.run, image), time.process_time_ns)[1])
    return {file: float(np.median(values[WARM_UP:])) for file, values in times.items()}


def table(cells: list[Cell], latency: dict[str, float], recall: float, paragon: float, queries: int) -> str:
    """Markdown: paths by format, ratios to our float32 file of that format."""
    lines = [
        "# Export paths",
        "",
        f"One elastic-xs student, {queries} queries; asymmetric Recall@1 of the torch student "
        f"{100 * recall:.2f} %, of the anchor itself {100 * paragon:.2f} %. Seconds: of the export, without "
        "imports, on a busy machine; ours include their checks. CPU ms: bytes to unit embedding, one thread, "
        "processor time, median of turns; latency: as a ratio to our float32 file of the format. Change of "
        "Recall@1 against torch in points, with a 95 % interval over classes.",
        "",
        "| path | format | seconds | kB | CPU ms | latency | cosine, mean / lowest | Recall@1 | change |",
        f"|{'---|' * 9}",
    ]
    for format in ("onnx", "tflite"):
        lines += [_row(c, latency) for c in cells if c["format"] == format and "error" not in c]
    failed = [f"* {c['name']} ({c['format']}): {c['error']}" for c in cells if "error" in c]
    return "\n".join([*lines, "", *(["## Failures", "", *failed, ""] if failed else [])])


def _row(cell: Cell, latency: dict[str, float]) -> str:
    ms = latency[cell["file"]]
    value, low, high = (100 * end for end in cell["change"])
    return (
        f"| {cell['name']} | {cell['format']} | {cell['seconds']:.1f} | {cell['bytes'] / 1000:.0f} "
        f"| {ms:.3f} | {ms / latency['ours-fp32.' + cell['format']]:.2f} "
        f"| {cell['cosine_mean']:.5f} / {cell['cosine_min']:.5f} | {100 * cell['recall']:.2f} "
        f"| {value:+.2f} ({low:+.2f} to {high:+.2f}) |"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--onnx2tf", type=lambda p: Path(p).resolve(), help="folder it was installed into")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=results.WORK / "export_peers")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
