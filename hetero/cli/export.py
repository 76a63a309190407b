"""`hetero export`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hetero.cli.options import (
    dry_run_option,
    json_option,
    need_export_stack,
    print_gate,
    print_json,
    run_argument,
)

if TYPE_CHECKING:
    from hetero.report import Report
    from hetero.runs import Run
    from hetero_devices.bundle import Bundle


@click.command("export")
@run_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Bundle folder  [default: RUN/bundle]")
@click.option("--gate", is_flag=True, help="Apply every gate of the recipe to what was exported.")
@dry_run_option
@json_option
def command(run: Path, output: Path | None, gate: bool, dry_run: bool, as_json: bool) -> None:
    """Export a run's student as a bundle: ONNX and LiteRT, float32 and full-integer int8.

    Preprocessing and normalisation are inside every graph: camera bytes in, unit embedding out. int8 is
    calibrated on training images. The folder is written whole or not at all.

    With --gate the artefacts are then evaluated as by `hetero report`, whose pages are written to RUN/report.
    Exit code 1 if a gate fails: the bundle stays for inspection, and the last line says not to ship it.

    \b
    Example:
      hetero export runs/demo -o phone-model --gate
    """
    need_export_stack()
    from hetero.runs import Run
    from hetero_export.loop import export_run

    opened = Run.existing(run)
    if dry_run:
        config = opened.recipe.export
        click.echo(f"would export {', '.join(config.formats)} in {', '.join(config.precisions)}")
        return
    bundle = export_run(opened, output)
    report = _evaluated(opened, bundle) if gate else None
    _print_json(bundle, report) if as_json else _show(bundle, report)
    sys.exit(0 if report is None or report.passed else 1)


def _evaluated(run: Run, bundle: Bundle) -> Report:
    from hetero import report as reports
    from hetero.runs.evaluation import evaluate

    report = evaluate(run, bundle)
    reports.write(report, run.folder / "report")
    return report


def _print_json(bundle: Bundle, report: Report | None) -> None:
    files = {model.file: model.bytes for model in bundle.manifest.models}
    fields = {"bundle": str(bundle.root), "space": bundle.manifest.space.to_json(), "files": files}
    print_json(fields | ({"gates": [asdict(gate) for gate in report.gates]} if report else {}))


def _show(bundle: Bundle, report: Report | None) -> None:
    for model in bundle.manifest.models:
        click.echo(f"{model.bytes / 1000:9.1f} kB  {bundle.root / model.file}")
    if report is None:
        return
    for gate in report.gates:
        print_gate(gate)
    failed = sum(not gate.passed for gate in report.gates)
    if failed:
        click.echo(f"{failed} of {len(report.gates)} gates failed: do not ship {bundle.root}", err=True)
