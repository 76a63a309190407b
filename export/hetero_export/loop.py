"""The whole loop as one call: train, export, verify, measure, compare, report. Continues where it stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from hetero import report as reports
from hetero.data.imageset import Images
from hetero.models.store import weights_digest
from hetero.recipes.recipe import ExportConfig
from hetero.report import Report
from hetero.runs import Run
from hetero.runs.evaluation import evaluate
from hetero_devices.bundle import MANIFEST, Bundle
from hetero_devices.devices import Device
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration
from hetero_export.formats import needs_calibration


def export_run(run: Run, folder: Path | None = None, config: ExportConfig | None = None) -> Bundle:
    """Export the run's student as a bundle in `folder` (default RUN/bundle), as `config` or its recipe says.

    A bundle of this very student and configuration is kept.
    """
    folder, config = folder or run.folder / "bundle", config or run.recipe.export
    digest, wanted = weights_digest(run.student.deploy.network).hex(), config.model_dump(mode="json")
    if (folder / MANIFEST).is_file():
        bundle = Bundle.open(folder)
        source = bundle.manifest.source
        if (source.get("weights_sha256"), source.get("export", wanted)) == (digest, wanted):
            return bundle
    return write_bundle(
        run.student,
        folder,
        name=run.recipe.name,
        calibration=_calibration(run, config),
        golden=run.splits.train.select(_spread(len(run.splits.train), config.golden)).images,
        formats=config.formats,
        precisions=config.precisions,
        mixed=config.mixed,
        source={
            "recipe": run.recipe.name,
            "seed": run.recipe.seed,
            "weights_sha256": digest,
            "export": wanted,
        },
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
