"""`hetero demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hetero.cli.options import json_option, need_export_stack, print_json, seed_option, with_seed


@click.command("demo")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--recipe", default="demo", show_default=True, help="A built-in recipe or a YAML file.")
@click.option("--run", "folder", type=click.Path(path_type=Path), help="Run folder  [default: runs/RECIPE]")
@seed_option
@json_option
def command(
    overrides: tuple[str, ...], recipe: str, folder: Path | None, seed: int | None, as_json: bool
) -> None:
    """Carry out the whole loop: train, export, verify, measure, compare, report.

    On the embedded glyphs this takes a few minutes on two cores. Interrupted, the same command continues.
    Exit code 1 if a gate fails.

    \b
    Example:
      hetero demo student.network=elastic-s --run runs/small
    """
    need_export_stack()
    from hetero import report as reports
    from hetero.recipes.resolve import resolve
    from hetero.runs import Run
    from hetero_export.loop import carry_out

    resolved = resolve(recipe, with_seed(overrides, seed))
    run = Run.open(folder or Path("runs") / resolved.name, resolved)
    report, page = carry_out(run)
    if as_json:
        print_json(report.to_json())
    else:
        reports.show(report)
        click.echo(f"\nreport: {page}")
    sys.exit(0 if report.passed else 1)
