"""`hetero report`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hetero.cli.options import json_option, need_training_stack, print_json, run_argument


@click.command("report")
@run_argument
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle folder  [default: RUN/bundle]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Report folder  [default: RUN/report]")
@json_option
def command(run: Path, bundle: Path | None, output: Path | None, as_json: bool) -> None:
    """Evaluate a run's exported artefacts against the anchor's gallery and write the report.

    Writes report.html (self-contained), report.md and report.json. Exit code 1 if a gate fails.

    \b
    Example:
      hetero report runs/demo
    """
    need_training_stack()
    from hetero import report as reports
    from hetero.runs import Run
    from hetero.runs.evaluation import evaluate
    from hetero_devices.bundle import Bundle

    opened = Run.existing(run)
    report = evaluate(opened, Bundle.open(bundle or run / "bundle"))
    page = reports.write(report, output or run / "report")
    if as_json:
        print_json(report.to_json())
    else:
        reports.show(report)
        click.echo(f"\nreport: {page}")
    sys.exit(0 if report.passed else 1)
