"""`hetero export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hetero.cli.options import dry_run_option, json_option, need_export_stack, print_json

if TYPE_CHECKING:
    from hetero.recipes.recipe import ExportConfig
    from hetero_devices.bundle import Bundle


@click.command("export")
@click.argument("source", metavar="RUN_OR_MODEL")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Bundle folder  [default: RUN/bundle]")
@dry_run_option
@json_option
def command(
    source: str, overrides: tuple[str, ...], output: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Export a run's student, or any model, as a bundle: ONNX and LiteRT, float32 and full-integer int8.

    Preprocessing and normalisation are inside every graph: camera bytes in, unit embedding out. int8 is
    calibrated on training images. The folder is written whole or not at all.

    RUN_OR_MODEL is a run folder, or a model from elsewhere: timm:NAME, hf:NAME_OR_FOLDER, or
    package.module:function that returns a torch module. Such a model takes KEY=VALUE: data (whose training
    images calibrate), root, size, weights (pretrained, random or a .safetensors file), embedding, pool, mean,
    std, seed, export.formats, export.precisions, export.calibration, export.golden.

    \b
    Example:
      hetero export runs/demo -o phone-model
      hetero export timm:mobilenetv3_small_100 data=photos -o phone-model
    """
    need_export_stack()
    from hetero.models.foreign.source import is_foreign

    exporting = _of_model if is_foreign(source) else _of_run
    bundle = exporting(source, overrides, output, dry_run)
    if bundle is not None:
        _show(bundle, as_json)


def _of_run(run: str, overrides: tuple[str, ...], output: Path | None, dry_run: bool) -> Bundle | None:
    from hetero.runs import Run
    from hetero_export.loop import export_run

    if overrides:
        raise click.UsageError(
            f"a run is exported by its recipe, without {overrides[0]!r}: see 'hetero train'"
        )
    opened = Run.existing(Path(run))
    if dry_run:
        _say(opened.recipe.export)
        return None
    return export_run(opened, output)


def _of_model(source: str, overrides: tuple[str, ...], output: Path | None, dry_run: bool) -> Bundle | None:
    from hetero.recipes.resolve import changed
    from hetero_export.any_model import ModelRecipe, export_model

    recipe = changed(ModelRecipe(source=source), overrides)
    if dry_run:
        _say(recipe.export)
        return None
    if output is None:
        raise click.UsageError("say with -o where the bundle of a model goes")
    return export_model(recipe, output)


def _say(config: ExportConfig) -> None:
    click.echo(f"would export {', '.join(config.formats)} in {', '.join(config.precisions)}")


def _show(bundle: Bundle, as_json: bool) -> None:
    files = {model.file: model.bytes for model in bundle.manifest.models}
    if as_json:
        print_json({"bundle": str(bundle.root), "space": bundle.manifest.space.to_json(), "files": files})
        return
    for file, size in files.items():
        click.echo(f"{size / 1000:9.1f} kB  {bundle.root / file}")
