"""`hetero export`."""

from __future__ import annotations

from pathlib import Path

import click

from hetero.cli.options import dry_run_option, json_option, need_export_stack, print_json, run_argument


@click.command("export")
@run_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Bundle folder  [default: RUN/bundle]")
@dry_run_option
@json_option
def command(run: Path, output: Path | None, dry_run: bool, as_json: bool) -> None:
    """Export a run's student as a bundle: ONNX and LiteRT, float32 and full-integer int8.

    Preprocessing and normalisation are inside every graph: camera bytes in, unit embedding out. int8 is
    calibrated on training images. The folder is written whole or not at all.

    \b
    Example:
      hetero export runs/demo -o phone-model
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
    files = {model.file: model.bytes for model in bundle.manifest.models}
    if as_json:
        print_json({"bundle": str(bundle.root), "space": bundle.manifest.space.to_json(), "files": files})
        return
    for file, size in files.items():
        click.echo(f"{size / 1000:9.1f} kB  {bundle.root / file}")
