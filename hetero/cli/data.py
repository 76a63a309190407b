"""`hetero data`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hetero.cli.options import json_option, need_training_stack, print_json, root_option, seed_option

if TYPE_CHECKING:
    from hetero.data import Splits


@click.command("data")
@click.argument("source")
@click.option("--size", default=32, show_default=True, type=click.IntRange(8, 1024), help="Side in pixels.")
@root_option
@click.option("--base-url", help="Where named data sets are downloaded from.")
@click.option("--protocol", help="leave-one-out, one-per-class, group=N or designated.")
@click.option("--group-pattern", help="Regular expression whose first group is the image's group.")
@click.option("--sheet", type=click.Path(path_type=Path), help="Write a PNG sheet of training images.")
@seed_option
@json_option
def command(
    source: str,
    size: int,
    root: Path | None,
    base_url: str | None,
    protocol: str | None,
    group_pattern: str | None,
    sheet: Path | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Show a data set: its splits, its protocol, and optionally a sheet of its images.

    SOURCE is a named data set (glyphs, omniglot, cifar100,
    cifar100-closed, caltech101), a folder or archive of image
    folders, a CSV or parquet manifest, or an .npz of arrays. Images are decoded once into the cache.

    \b
    Example:
      hetero data glyphs --sheet glyphs.png
    """
    need_training_stack()
    from hetero import data
    from hetero.data.sheet import contact_sheet

    splits = data.load(
        source, size=size, root=root, base_url=base_url, seed=seed or 0, group_pattern=group_pattern
    )
    sides = data.protocol(protocol or splits.protocol, splits.test, seed or 0)
    if sheet:
        contact_sheet(splits.train, sheet)
    summary = _summary(splits) | {"protocol": sides.description}
    summary |= {"queries": len(sides.query), "gallery": len(sides.gallery)}
    print_json(summary) if as_json else _show(summary)


def _summary(splits: Splits) -> dict[str, Any]:
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {name: {"images": len(p), "classes": len(p.class_names)} for name, p in parts.items()}


def _show(summary: dict[str, Any]) -> None:
    for name in ("train", "validation", "test"):
        click.echo(f"{name:10} {summary[name]['images']:7} images {summary[name]['classes']:6} classes")
    click.echo(f"protocol   {summary['protocol']}")
