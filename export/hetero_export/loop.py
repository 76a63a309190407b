"""The whole loop as one call: train, export, verify, measure, compare, report. Continues where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hetero import report as reports
from hetero.models.store import Model, weights_digest
from hetero.quantisation import SCHEMES
from hetero.recipes.recipe import ExportConfig
from hetero.report import Report
from hetero.runs import Run
from hetero.runs.evaluation import evaluate
from hetero.runs.finishing import finished
from hetero.runs.sides import check_shares_space
from hetero.upgrades.links.attach import attached
from hetero.upgrades.links.link import Link
from hetero_devices.bundle import MANIFEST, Bundle
from hetero_devices.devices import Device
from hetero_devices.errors import RecipeError
from hetero_devices.runtimes import Format
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration
from hetero_export.choosing import calibration, spread
from hetero_export.formats import INTEGER


def export_run(run: Run, folder: Path | None = None, config: ExportConfig | None = None) -> Bundle:
    """Export the run's student as a bundle in `folder` (default RUN/bundle), as `config` or its recipe says.

    A bundle of these very weights and configuration is kept. Where the recipe says `student.quantised`, int8
    files are of the student finished for their format.
    """
    folder, config = folder or run.folder / "bundle", config or run.recipe.export
    images = calibration(run.splits.train, config, run.recipe.seed)
    for_int8 = _finished(run, config, images)
    settings = config.model_dump(mode="json", exclude={"link"})
    source: dict[str, Any] = {"weights_sha256": _digest(run.student), "export": settings, "link": None}
    source |= {f"{format}_int8_weights_sha256": _digest(model) for format, model in for_int8.items()}
    student, link = run.student, opened_link(config)
    if link is not None:
        source["link"] = link.digest
        student = attached(student, link)
        for_int8 = {format: attached(model, link) for format, model in for_int8.items()}
    if (folder / MANIFEST).is_file():
        bundle = Bundle.open(folder)
        defaults = {"export": settings, "link": None}  # of bundles of older versions
        if source.items() <= (defaults | bundle.manifest.source).items():
            return bundle
    return write_bundle(
        student,
        folder,
        name=run.recipe.name,
        calibration=images,
        golden=spread(run.splits.train, config.golden),
        formats=config.formats,
        precisions=config.precisions,
        mixed=config.mixed,
        source={"recipe": run.recipe.name, "seed": run.recipe.seed, **source},
        finished=for_int8,
    )


def carry_out(run: Run, device: Device | None = None) -> tuple[Report, Path]:
    """Everything, and the path of the HTML report. Killed at any moment, calling it again continues.

    Raises ModelError, before anything is trained, where the report could not compare the student.
    """
    check_shares_space(run)
    bundle = export_run(run)
    if run.recipe.student.alone:
        _ = run.alone
    report = evaluate(run, bundle, device)
    return report, reports.write(report, run.folder / "report")


def _finished(run: Run, config: ExportConfig, found: Calibration | None) -> dict[Format, Model]:
    """The students whose int8 artefacts are written in place of the float student's; none by default."""
    if run.recipe.student.quantised is None or found is None or not set(INTEGER) & {*config.precisions}:
        return {}
    if found.method != "minmax":
        raise RecipeError(
            f"student.quantised takes the ranges that images show, export.calibration.method "
            f"{found.method!r} would cut them: leave it at minmax"
        )
    if unknown := set(config.formats) - SCHEMES.keys():
        raise RecipeError(
            f"student.quantised knows the int8 arithmetic of {', '.join(SCHEMES)}, "
            f"not of {', '.join(unknown)}: leave that out of export.formats"
        )
    return {format: finished(run, format, found.images) for format in config.formats}


def opened_link(config: ExportConfig) -> Link | None:
    """The link that the export is to carry, if any; RecipeError where a precision cannot carry one."""
    if config.link is None:
        return None
    integer_ends = sorted({"int8_io", "uint8_io"} & {*config.precisions})
    if integer_ends:
        raise RecipeError(
            f"export.link: a file of precision {integer_ends[0]!r} ends before its unit norm, where the link "
            "stands: choose others of export.precisions"
        )
    return Link.load(Path(config.link).expanduser())


def _digest(model: Model) -> str:
    return weights_digest(model.deploy.network).hex()
