"""`hetero export`."""

from __future__ import annotations

from pathlib import Path

import click

from hetero.cli.options import dry_run_option, json_option, need_export_stack, print_json, run_argument
from hetero_devices.bundle import Bundle
from hetero_devices.errors import RecipeError


@click.command("export")
@run_argument
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Bundle folder  [default: RUN/bundle]")
@dry_run_option
@json_option
def command(run: Path, overrides: tuple[str, ...], output: Path | None, dry_run: bool, as_json: bool) -> None:
    """Export a run's student as a bundle: ONNX and LiteRT, float32 down to full-integer int8.

    Preprocessing and normalisation are inside every graph: camera bytes in, unit embedding out. int8 is
    calibrated on training images. KEY=VALUE pairs change the recipe's `export` for this bundle, which
    then needs a folder of its own (-o). The folder is written whole or not at all.

    \b
    Precisions: fp32, fp16, dynamic, int8, mixed; LiteRT also int8_io and uint8_io (integer ends).
    `mixed` scans the layers and prints how sensitive each is.

    \b
    Example:
      hetero export runs/demo -o phone-model
      hetero export runs/demo export.precisions=[fp16,mixed] export.mixed.target=1e-4 -o smaller
    """
    need_export_stack()
    from hetero.recipes.resolve import overridden
    from hetero.runs import Run
    from hetero_export.loop import export_run

    if overrides and output is None:
        raise RecipeError("RUN/bundle is what the run's recipe says: give changed settings a folder by -o")
    opened = Run.existing(run)
    config = overridden(opened.recipe, overrides, section="export").export
    if dry_run:
        click.echo(f"would export {', '.join(config.formats)} in {', '.join(config.precisions)}")
        return
    bundle = export_run(opened, output, config)
    _report(bundle, as_json)


def _report(bundle: Bundle, as_json: bool) -> None:
    from hetero_export.sensitivity import Sensitivity

    models = bundle.manifest.models
    scans = {file.file: file.details["sensitivity"] for file in models if "sensitivity" in file.details}
    if as_json:
        files = {file.file: file.bytes for file in models}
        found = {"bundle": str(bundle.root), "space": bundle.manifest.space.to_json(), "files": files}
        print_json(found | ({"sensitivity": scans} if scans else {}))
        return
    for file in models:
        click.echo(f"{file.bytes / 1000:9.1f} kB  {bundle.root / file.file}")
    for name, scan in scans.items():
        click.echo(f"\n{name}\n{Sensitivity.from_json(scan).table()}")
