"""`hetero embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from hetero.cli.options import json_option, need_training_stack, print_json, root_option, seed_option
from hetero_devices.bundle import Precision
from hetero_devices.runtimes.base import FORMATS

SPLITS = ("train", "validation", "test")


@click.command("embed")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--split", type=click.Choice([*SPLITS, "all"]), default="all", show_default=True)
@click.option("--format", "format_", type=click.Choice(FORMATS), default="onnx", show_default=True)
@click.option("--precision", type=click.Choice(get_args(Precision)), default="fp32", show_default=True)
@click.option("--dim", type=click.IntRange(1), help="Keep the first DIM dimensions, normalised anew.")
@root_option
@seed_option
@json_option
def command(
    model: Path,
    source: str,
    output: Path,
    split: str,
    format_: str,
    precision: str,
    dim: int | None,
    root: Path | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Embed a data set with a model; the result carries the model's space.

    MODEL is a trained model's folder (RUN/anchor, RUN/student) or a bundle; SOURCE is data as in
    `hetero data`. With --split all, OUTPUT/train, /validation and /test are written: what a black-box
    anchor is made of (`anchor.source=OUTPUT`). With --dim the vectors live in the space's prefix: a gallery
    for students that emit one (`student.dimension=prefix`).

    \b
    Example:
      hetero embed runs/demo/anchor glyphs -o anchor-vectors
    """
    need_training_stack()
    from hetero import data
    from hetero.models.encoder import embed
    from hetero.models.opening import open_encoder
    from hetero_devices.space import check_target, prefix, prefix_space

    splits_wanted = SPLITS if split == "all" else (split,)
    for name in splits_wanted:
        check_target(output / name)  # before hours of work
    encoder = open_encoder(model, format_, precision)
    space = encoder.space if dim is None else prefix_space(encoder.space, dim)
    splits = data.load(source, size=encoder.preprocessing.size, root=root, seed=seed or 0)
    written: dict[str, Any] = {}
    for name in splits_wanted:
        images = getattr(splits, name)
        if len(images):
            target = output / name
            prefix(embed(encoder, images), space.dim).save(target)
            written[str(target)] = len(images)
    summary = {"space": space.to_json(), "written": written}
    if as_json:
        print_json(summary)
        return
    for path, count in written.items():
        click.echo(f"{count:7} embeddings in space {space.id} -> {path}")
