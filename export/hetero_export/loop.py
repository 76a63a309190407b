"""The whole loop as one call: train, export, verify, measure, compare, report. Continues where it stopped."""

from __future__ import annotations

from pathlib import Path

from hetero import report as reports
from hetero.models.store import weights_digest
from hetero.report import Report
from hetero.runs import Run
from hetero.runs.evaluation import evaluate
from hetero_devices.bundle import MANIFEST, Bundle
from hetero_devices.devices import Device
from hetero_export.bundle import write_bundle
from hetero_export.choosing import balanced, spread


def export_run(run: Run, folder: Path | None = None) -> Bundle:
    """Export the run's student as a bundle (default RUN/bundle); a bundle of this very student is kept."""
    folder = folder or run.folder / "bundle"
    digest = weights_digest(run.student.deploy.network).hex()
    if (folder / MANIFEST).is_file():
        bundle = Bundle.open(folder)
        if bundle.manifest.source.get("weights_sha256") == digest:
            return bundle
    config = run.recipe.export
    return write_bundle(
        run.student,
        folder,
        name=run.recipe.name,
        calibration=balanced(run.splits.train, config.calibration, run.recipe.seed),
        golden=spread(run.splits.train, config.golden),
        formats=config.formats,
        precisions=config.precisions,
        source={"recipe": run.recipe.name, "seed": run.recipe.seed, "weights_sha256": digest},
    )


def carry_out(run: Run, device: Device | None = None) -> tuple[Report, Path]:
    """Everything, and the path of the HTML report. Killed at any moment, calling it again continues."""
    bundle = export_run(run)
    if run.recipe.student.alone:
        _ = run.alone
    report = evaluate(run, bundle, device)
    return report, reports.write(report, run.folder / "report")
