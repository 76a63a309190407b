"""The whole loop as one call: train, export, verify, measure, compare, report. Continues where it stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from hetero import report as reports
from hetero.data.imageset import Images
from hetero.models.store import Model, weights_digest
from hetero.recipes.recipe import ExportConfig
from hetero.report import Report
from hetero.runs import Run
from hetero.runs.evaluation import evaluate
from hetero.runs.finishing import finished
from hetero_devices.bundle import MANIFEST, Bundle
from hetero_devices.devices import Device
from hetero_devices.errors import RecipeError
from hetero_devices.runtimes import Format
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration
from hetero_export.formats import INTEGER, needs_calibration


def export_run(run: Run, folder: Path | None = None, config: ExportConfig | None = None) -> Bundle:
    """Export the run's student as a bundle in `folder` (default RUN/bundle), as `config` or its recipe says.

    A bundle of these very weights and configuration is kept. Where the recipe says `student.quantised`, int8
    files are of the student finished for their format.
    """
    folder, config = folder or run.folder / "bundle", config or run.recipe.export
    calibration = _calibration(run, config)
    for_int8 = _finished(run, config, calibration)
    source = {"weights_sha256": _digest(run.student), "export": config.model_dump(mode="json")}
    source |= {f"{format}_int8_weights_sha256": _digest(model) for format, model in for_int8.items()}
    if (folder / MANIFEST).is_file():
        bundle = Bundle.open(folder)
        if source.items() <= ({"export": source["export"]} | bundle.manifest.source).items():
            return bundle
    return write_bundle(
        run.student,
        folder,
        name=run.recipe.name,
        calibration=calibration,
        golden=run.splits.train.select(_spread(len(run.splits.train), config.golden)).images,
        formats=config.formats,
        precisions=config.precisions,
        mixed=config.mixed,
        source={"recipe": run.recipe.name, "seed": run.recipe.seed, **source},
        finished=for_int8,
    )


def carry_out(run: Run, device: Device | None = None) -> tuple[Report, Path]:
    """Everything, and the path of the HTML report. Killed at any moment, calling it again continues."""
    bundle = export_run(run)
    if run.recipe.student.alone:
        _ = run.alone
    report = evaluate(run, bundle, device)
    return report, reports.write(report, run.folder / "report")


def _calibration(run: Run, config: ExportConfig) -> Calibration | None:
    """None where no precision asks for it: then too few training images are no mistake."""
    if not needs_calibration(config.precisions):
        return None
    chosen = config.calibration
    return Calibration(_balanced(run, chosen.images), chosen.method, chosen.percentile)


def _finished(run: Run, config: ExportConfig, calibration: Calibration | None) -> dict[Format, Model]:
    """The students whose int8 artefacts are written in place of the float student's; none by default."""
    if run.recipe.student.quantised is None or calibration is None or not set(INTEGER) & {*config.precisions}:
        return {}
    if calibration.method != "minmax":
        raise RecipeError(
            f"student.quantised takes the ranges that images show, export.calibration.method "
            f"{calibration.method!r} would cut them: leave it at minmax"
        )
    return {format: finished(run, format, calibration.images) for format in config.formats}


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
