"""`hetero export`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hetero.cli.options import dry_run_option, json_option, need_export_stack, print_gate, print_json
from hetero_devices.errors import RecipeError

if TYPE_CHECKING:
    from hetero.recipes.recipe import ExportConfig
    from hetero.report import Report
    from hetero.runs import Run
    from hetero_devices.bundle import Bundle


@click.command("export")
@click.argument("source", metavar="RUN_OR_MODEL")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Bundle folder  [default: RUN/bundle]")
@click.option("--gate", is_flag=True, help="Apply every gate of the recipe to what was exported.")
@dry_run_option
@json_option
def command(
    source: str, overrides: tuple[str, ...], output: Path | None, gate: bool, dry_run: bool, as_json: bool
) -> None:
    """Export a run's student, or any model, as a bundle: ONNX and LiteRT, float32 down to full-integer int8.

    Preprocessing and normalisation are inside every graph: camera bytes in, unit embedding out. int8 is
    calibrated on training images. KEY=VALUE pairs change the recipe's `export` for this bundle, which
    then needs a folder of its own (-o). The folder is written whole or not at all.

    \b
    Precisions: fp32, fp16, dynamic, int8, mixed; LiteRT also int8_io and uint8_io (integer ends).
    Formats: onnx, tflite; also pte (ExecuTorch) where it is installed, in fp32 and int8.
    `mixed` scans the layers and prints how sensitive each is.

    With --gate the artefacts are then evaluated as by `hetero report`, whose pages are written to RUN/report.
    Exit code 1 if a gate fails: the bundle stays for inspection, and the last line says not to ship it.

    RUN_OR_MODEL is a run folder, or a model from elsewhere: timm:NAME, hf:NAME_OR_FOLDER, or
    package.module:function that returns a torch module. Such a model takes KEY=VALUE: data (whose training
    images calibrate), root, size, weights (pretrained, random or a .safetensors file), embedding, pool, mean,
    std, seed, export.formats, export.precisions, export.calibration, export.golden.

    \b
    Example:
      hetero export runs/demo -o phone-model --gate
      hetero export runs/demo export.precisions=[fp16,mixed] export.mixed.target=1e-4 -o smaller
      hetero export timm:mobilenetv3_small_100 data=photos -o phone-model
    """
    need_export_stack()
    from hetero.models.foreign.source import is_foreign

    if is_foreign(source):
        _of_model(source, overrides, output, gate, dry_run, as_json)
    else:
        _of_run(Path(source), overrides, output, gate, dry_run, as_json)


def _of_run(
    run: Path, overrides: tuple[str, ...], output: Path | None, gate: bool, dry_run: bool, as_json: bool
) -> None:
    from hetero.recipes.resolve import overridden
    from hetero.runs import Run
    from hetero_export.loop import export_run

    if overrides and output is None:
        raise RecipeError("RUN/bundle is what the run's recipe says: give changed settings a folder by -o")
    opened = Run.existing(run)
    config = overridden(opened.recipe, overrides, section="export").export
    if dry_run:
        _say(config)
        return
    bundle = export_run(opened, output, config)
    report = _evaluated(opened, bundle) if gate else None
    _print_json(bundle, report) if as_json else _show(bundle, report)
    sys.exit(0 if report is None or report.passed else 1)


def _of_model(
    source: str, overrides: tuple[str, ...], output: Path | None, gate: bool, dry_run: bool, as_json: bool
) -> None:
    from hetero.recipes.resolve import changed
    from hetero_export.any_model import ModelRecipe, export_model

    recipe = changed(ModelRecipe(source=source), overrides)
    if gate:
        raise RecipeError("a model from elsewhere has no anchor to be gated against: see 'hetero verify'")
    if dry_run:
        _say(recipe.export)
        return
    if output is None:
        raise RecipeError("a model from elsewhere has no run folder: say with -o where the bundle goes")
    bundle = export_model(recipe, output)
    _print_json(bundle, None) if as_json else _show(bundle, None)


def _say(config: ExportConfig) -> None:
    click.echo(f"would export {', '.join(config.formats)} in {', '.join(config.precisions)}")


def _evaluated(run: Run, bundle: Bundle) -> Report:
    from hetero import report as reports
    from hetero.runs.evaluation import evaluate

    report = evaluate(run, bundle)
    reports.write(report, run.folder / "report")
    return report


def _print_json(bundle: Bundle, report: Report | None) -> None:
    files = {model.file: model.bytes for model in bundle.manifest.models}
    fields = {"bundle": str(bundle.root), "space": bundle.manifest.space.to_json(), "files": files}
    fields |= {"sensitivity": scans} if (scans := _scans(bundle)) else {}
    print_json(fields | ({"gates": [asdict(gate) for gate in report.gates]} if report else {}))


def _show(bundle: Bundle, report: Report | None) -> None:
    from hetero_export.sensitivity import Sensitivity

    for model in bundle.manifest.models:
        click.echo(f"{model.bytes / 1000:9.1f} kB  {bundle.root / model.file}")
    for name, scan in _scans(bundle).items():
        click.echo(f"\n{name}\n{Sensitivity.from_json(scan).table()}")
    if report is None:
        return
    for gate in report.gates:
        print_gate(gate)
    failed = sum(not gate.passed for gate in report.gates)
    if failed:
        click.echo(f"{failed} of {len(report.gates)} gates failed: do not ship {bundle.root}", err=True)


def _scans(bundle: Bundle) -> dict[str, Any]:
    """By file, the sensitivity of its layers, where they were scanned."""
    details = {model.file: model.details for model in bundle.manifest.models}
    return {file: found["sensitivity"] for file, found in details.items() if "sensitivity" in found}
