"""`hetero upgrade graph`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, get_args

import click

from hetero.cli.options import json_option, need_training_stack, print_json, root_option, seed_option
from hetero_devices.bundle import Precision
from hetero_devices.runtimes.base import FORMATS

_PAIR = "NAME=PATH"
_path = click.Path(path_type=Path)


@click.command("graph")
@click.option(
    "--version",
    "versions",
    multiple=True,
    required=True,
    metavar=_PAIR,
    help="In order of release; repeatable.",
)
@click.option(
    "--student", "students", multiple=True, metavar=_PAIR, help="A further phone's model or bundle."
)
@click.option("--paragon", "paragons", multiple=True, metavar=_PAIR, help="A version's model trained alone.")
@click.option("--on", "devices", multiple=True, metavar="DEVICE", help="Where bundles run  [default: here]")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Only this one.")
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(get_args(Precision)), help="Only this."
)
@click.option("--queries", metavar="SOURCE", help="Labelled test images  [default: those of the first run]")
@root_option
@click.option(
    "--max-loss",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Of Recall@1, tolerated for old queries in new galleries.",
)
@click.option("--gate", is_flag=True, help="Exit with 1 unless every link between two versions holds.")
@click.option(
    "--across-spaces", is_flag=True, help="Compare versions of different spaces, to see chance level."
)
@click.option("-o", "--output", type=_path, required=True, help="Folder for the report.")
@seed_option
@json_option
def graph(as_json: bool, **options: Any) -> None:
    """Every version's models and phones as queries, every version's gallery: which links of an upgrade hold?

    A version is a run (its anchor is the cloud's model; its student and the artefacts of its bundle are
    phones), a trained model's folder, or a folder with query/ and gallery/ embeddings. New queries in old
    galleries must beat the old ones there; old queries in new galleries must not lose more than --max-loss.

    \b
    Example:
      hetero upgrade graph --version v1=runs/v1 --version v2=runs/v2 -o graph
      hetero upgrade graph --version v1=runs/v1 --version v2=runs/v2 --precision int8 --on pixel-8 -o graph
    """
    need_training_stack()
    from hetero import report as reports
    from hetero.upgrades.graph import graph as evaluated
    from hetero.upgrades.graph_report import graph_report
    from hetero.upgrades.graph_sources import Artefacts, images_of, paragon, sources

    output, versions = options["output"], _named(options["versions"])
    work, images = output / ".work", _images(options) or images_of(versions)
    artefacts = Artefacts(options["formats"], options["precisions"], options["devices"])
    rows, galleries = sources(versions, _pairs(options["students"]), images, artefacts, work)
    best = {name: paragon(path, images, work) for name, path in _named(options["paragons"]).items()}
    found = evaluated(
        rows,
        galleries,
        best,
        max_loss=options["max_loss"],
        across_spaces=options["across_spaces"],
        seed=options["seed"] or 0,
    )
    report = graph_report(found, gate=options["gate"])
    page = reports.write(report, output)
    shutil.rmtree(work, ignore_errors=True)
    if as_json:
        print_json({**report.values, "matrices": [matrix.to_json() for matrix in report.matrices]})
    else:
        reports.show(report)
        click.echo(f"\nreport: {page}")
    sys.exit(0 if report.passed else 1)


def _images(options: dict[str, Any]) -> Any:
    from hetero.upgrades.pictures import TestImages

    if options["queries"] is None:
        return None
    return TestImages.of_source(options["queries"], root=options["root"], seed=options["seed"] or 0)


def _pairs(given: tuple[str, ...]) -> list[tuple[str, Path]]:
    split = [pair.partition("=") for pair in given]
    for pair, (name, _, path) in zip(given, split, strict=True):
        if not name or not path:
            raise click.BadParameter(f"{pair!r} is not {_PAIR}")
    return [(name, Path(path)) for name, _, path in split]


def _named(given: tuple[str, ...]) -> dict[str, Path]:
    pairs = _pairs(given)
    if len({name for name, _ in pairs}) < len(pairs):
        raise click.BadParameter(f"a version is named twice: {', '.join(given)}")
    return dict(pairs)
