"""Does a check of numbers say whether search still works? The same exports by PSNR, allclose and retrieval.

A small student is trained on the embedded data and exported: in int8 by this library and by ONNX Runtime's
quantiser with its defaults, and with weights of 4 bits by LiteRT's. Each export embeds the queries of three
searches (see gates_data.py); the rows say what numeric checks and what the retrieval gate find. Writes
results/gates.{json,md}.

    python benchmarks/gates.py          ten minutes on one core; again: continues
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gates_data
import results
from gates_data import Task
from hetero.data.imageset import ImageSet
from hetero.recipes.recipe import GateConfig
from hetero.report import ParityRow
from hetero.retrieval import Evaluation, evaluate
from hetero.runs import Run
from hetero.runs.gates import gates
from hetero.runs.parity import parity_row
from hetero_devices import runtimes
from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.errors import require
from hetero_devices.space import Embeddings
from hetero_export.loop import export_run
from hetero_export.quiet import quiet

PSNR_GOOD = 30.0  # dB, the customary limit of export checks; peak: the largest component
ATOL = (1e-3, 1e-2, 5e-2, 1e-1)
FOUR_BITS = {  # operator, and the module whose layers: the quantiser takes no depthwise layer in 4 bits
    "last layer": (("FULLY_CONNECTED", ".*"),),
    "two largest layers": (("FULLY_CONNECTED", ".*"), ("CONV_2D", ".*features/8.*")),
    "all": (("FULLY_CONNECTED", ".*"), ("CONV_2D", ".*")),
}
CALIBRATION = 64  # images for ONNX Runtime's own quantiser


@dataclass(frozen=True)
class Export:
    """One int8 file of the student."""

    name: str
    path: Path


@dataclass(frozen=True)
class Row:
    """psnr: dB, peak the largest component; psnr_range: dB, peak the range 2 of components in [-1, 1], which
    scikit-image takes for signed floats. atol: the smallest of ATOL by which np.allclose accepts the vectors,
    None for none of them."""

    task: str
    export: str
    psnr: float
    psnr_range: float
    atol: float | None
    parity: ParityRow
    passed: bool


def main() -> None:
    run = gates_data.trained()
    bundle = export_run(run)
    with tempfile.TemporaryDirectory() as work:
        exports = [*_ours(bundle), *_stock(bundle, run, Path(work)), *_four_bits(bundle, Path(work))]
        rows = [row for task in gates_data.tasks(run) for row in _rows(task, bundle, exports)]
    page = table(rows)
    print(page)
    stamp = results.stamp("python benchmarks/gates.py", gates_data.DATA, run.recipe.seed)
    results.write("gates", {"stamp": stamp, "rows": [asdict(row) for row in rows]}, page)


def table(rows: list[Row]) -> str:
    lines = [
        "# What numeric checks and what retrieval gates say of the same files",
        "",
        f"PSNR of the vectors, customarily good above {PSNR_GOOD:.0f} dB: with the largest component as the "
        "peak, and with the range 2 of [-1, 1]. allclose at: the smallest atol of "
        f"{', '.join(f'{a:g}' for a in ATOL)} that accepts all vectors. Differences: export minus float32, "
        "in points, with 95 % intervals over classes (of `copies`: over pictures). Flips: queries right in "
        "float and wrong in the export, and the reverse. Gate: at most 1 point of Recall@1 and of mAP lost.",
        "",
        "| search | export | PSNR dB | PSNR dB, range 2 | allclose at | lowest cosine | Recall@1 float % "
        "| Δ Recall@1 | Δ mAP | flips − / + | gate |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_line(row) for row in rows]) + "\n"


def _line(row: Row) -> str:
    parity = row.parity
    before = 100 * (parity.recall.value - parity.recall_delta.value)
    accepted = "none" if row.atol is None else f"{row.atol:g}"
    numeric = f"{row.psnr:.1f} | {row.psnr_range:.1f} | {accepted} | {1 - parity.cosine_distance_max:.4f}"
    return (
        f"| {row.task} | {row.export} | {numeric} | {before:.1f} "
        f"| {results.signed(parity.recall_delta)} | {results.signed(parity.map_delta)} "
        f"| {parity.negative_flips} / {parity.positive_flips} | {'pass' if row.passed else '**FAIL**'} |"
    )


def _ours(bundle: Bundle) -> Iterator[Export]:
    for model in bundle.manifest.models:
        if model.precision == "int8":
            yield Export(f"hetero, {model.format}", bundle.path(model))


def _stock(bundle: Bundle, run: Run, work: Path) -> Iterator[Export]:
    """ONNX Runtime's static quantiser as it comes, of the same float32 file."""
    from onnxruntime import quantization

    source = bundle.path(bundle.model("onnx", "fp32"))
    images = run.splits.train.images[:: len(run.splits.train) // CALIBRATION][:CALIBRATION]
    for name, options in (("defaults", {}), ("per channel", {"per_channel": True})):
        target = work / f"{name}.onnx"
        quantization.quantize_static(str(source), str(target), _Calibration(images), **options)
        yield Export(f"onnxruntime, {name}", target)


def _four_bits(bundle: Bundle, work: Path) -> Iterator[Export]:
    """LiteRT's own quantiser, weights in 4 bits per channel, activations in float: of which layers."""
    manager = require("ai_edge_quantizer.recipe_manager", "export")
    quantizer = require("ai_edge_quantizer.quantizer", "export")
    operators = require("ai_edge_quantizer.qtyping", "export").TFLOperationName
    source = bundle.path(bundle.model("tflite", "fp32")).read_bytes()
    for name, chosen in FOUR_BITS.items():
        recipe = manager.RecipeManager()
        for operator, module in chosen:
            recipe.add_weight_only_config(module, operators[operator], num_bits=4)
        with quiet():
            result = quantizer.Quantizer(bytearray(source), recipe.get_quantization_recipe()).quantize()
        target = work / f"{name}.tflite"
        target.write_bytes(bytes(result.quantized_model))
        yield Export(f"LiteRT, 4-bit weights, {name}", target)


def _rows(task: Task, bundle: Bundle, exports: list[Export]) -> Iterator[Row]:
    reference = _embedded(bundle.path(bundle.model("onnx", "fp32")), task.query, task.gallery)
    expected = evaluate(reference, task.gallery)
    for export in exports:
        exported = _embedded(export.path, task.query, task.gallery)
        yield _row(task, export, (exported, reference), expected, bundle.model("onnx", "int8"))


def _row(
    task: Task,
    export: Export,
    queries: tuple[Embeddings, Embeddings],
    expected: Evaluation,
    model: ModelFile,
) -> Row:
    exported, reference = queries
    found = evaluate(exported, task.gallery)
    parity = parity_row(model, queries, task.gallery, (found, expected))
    error = exported.vectors - reference.vectors
    noise = np.sqrt((error**2).mean())
    psnr, wide = (float(20 * np.log10(peak / noise)) for peak in (np.abs(reference.vectors).max(), 2.0))
    accepted = [a for a in ATOL if np.allclose(exported.vectors, reference.vectors, rtol=0, atol=a)]
    passed = all(gate.passed for gate in gates(GateConfig(), parity=[parity]))
    return Row(task.name, export.name, psnr, wide, min(accepted, default=None), parity, passed)


def _embedded(path: Path, images: ImageSet, gallery: Embeddings) -> Embeddings:
    """Normalised anew: the stock quantiser leaves the length of vectors to 8 bits."""
    vectors = runtimes.load(path).run(np.ascontiguousarray(images.images))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(vectors.astype(np.float32), images.ids, images.labels, gallery.space)


class _Calibration:
    """Images in blocks of 8, in the form onnxruntime's calibrator reads."""

    def __init__(self, images: Any) -> None:
        self._blocks = iter([images[start : start + 8] for start in range(0, len(images), 8)])

    def get_next(self) -> dict[str, Any] | None:
        block = next(self._blocks, None)
        return None if block is None else {"image": block}


if __name__ == "__main__":
    main()
