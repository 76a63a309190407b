"""The whole loop as one call: train, export, verify, measure, compare, report. Continues where it stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from hetero import report as reports
from hetero.data.imageset import Images
from hetero.models.store import Model, weights_digest
from hetero.report import Report
from hetero.runs import Run
from hetero.runs.evaluation import evaluate
from hetero.runs.finishing import finished
from hetero_devices.bundle import MANIFEST, Bundle
from hetero_devices.devices import Device
from hetero_devices.runtimes import Format
from hetero_export.bundle import write_bundle


def export_run(run: Run, folder: Path | None = None) -> Bundle:
    """Export the run's student as a bundle (default RUN/bundle); a bundle of this very student is kept.

    Where the recipe says `student.quantised`, int8 files are of the student finished for their format.
    """
    folder = folder or run.folder / "bundle"
    config = run.recipe.export
    calibration = _balanced(run, config.calibration)
    for_int8 = _finished(run, calibration)
    weights = {"weights_sha256": _digest(run.student)}
    if for_int8:
        weights |= {f"{format}_int8_weights_sha256": _digest(model) for format, model in for_int8.items()}
    if (folder / MANIFEST).is_file():
        bundle = Bundle.open(folder)
        if weights.items() <= bundle.manifest.source.items():
            return bundle
    return write_bundle(
        run.student,
        folder,
        name=run.recipe.name,
        calibration=calibration,
        golden=run.splits.train.select(_spread(len(run.splits.train), config.golden)).images,
        formats=config.formats,
        precisions=config.precisions,
        source={"recipe": run.recipe.name, "seed": run.recipe.seed, **weights},
        finished=for_int8,
    )


def carry_out(run: Run, device: Device | None = None) -> tuple[Report, Path]:
    """Everything, and the path of the HTML report. Killed at any moment, calling it again continues."""
    bundle = export_run(run)
    if run.recipe.student.alone:
        _ = run.alone
    report = evaluate(run, bundle, device)
    return report, reports.write(report, run.folder / "report")


def _finished(run: Run, calibration: Images) -> dict[Format, Model]:
    """The students whose int8 artefacts are written in place of the float student's; none by default."""
    config = run.recipe.export
    if run.recipe.student.quantised is None or "int8" not in config.precisions:
        return {}
    return {format: finished(run, format, calibration) for format in config.formats}


def _digest(model: Model) -> str:
    return weights_digest(model.deploy.network).hex()


def _balanced(run: Run, count: int) -> Images:
    """`count` training images, taken from as many classes as there are: uint8 [count, S, S, 3]."""
    images = run.splits.train
    order = np.random.default_rng(run.recipe.seed).permutation(len(images))
    _, first = np.unique(images.labels[order], return_index=True)
    rest = np.setdiff1d(np.arange(len(order)), first, assume_unique=True)
    return images.select(np.sort(order[np.concatenate([first, rest])[:count]])).images


def _spread(total: int, count: int) -> npt.NDArray[np.int64]:
    """`count` row numbers spread evenly over 0..total-1: int64."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))
