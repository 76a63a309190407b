"""`hetero matrix`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hetero.cli.options import json_option, need_training_stack, print_json

if TYPE_CHECKING:
    from hetero.retrieval import Matrix


@click.command("matrix")
@click.option(
    "--query", "queries", multiple=True, required=True, metavar="NAME=FOLDER", help="Query embeddings."
)
@click.option(
    "--gallery", "galleries", multiple=True, required=True, metavar="NAME=FOLDER", help="Gallery embeddings."
)
@click.option(
    "--metric",
    default="recall@1",
    show_default=True,
    help="recall@K, precision@K, ndcg@K, map, map@r, r-precision or mrr; K is any positive integer.",
)
@click.option("--by-class/--by-query", default=True, show_default=True, help="What intervals resample.")
@click.option(
    "--across-spaces", is_flag=True, help="Compare models of different spaces, to see chance level."
)
@json_option
def command(
    queries: tuple[str, ...],
    galleries: tuple[str, ...],
    metric: str,
    by_class: bool,
    across_spaces: bool,
    as_json: bool,
) -> None:
    """Compare query and gallery models: M(q, g) with 95 % intervals, one cell a pair.

    Folders are those `hetero embed` writes, or for galleries `hetero compress`. Models of different spaces
    are refused unless asked for. An image that is on both sides does not find itself. When the same models
    stand on both sides, listed in the order of their release, the average compatibility (AC) and accuracy
    (AA) of the series are added.

    \b
    Example:
      hetero matrix --query phone=phone/test --gallery cloud=cloud/test
    """
    need_training_stack()
    from hetero.report.terminal import print_matrix
    from hetero.retrieval import cross_evaluate
    from hetero.retrieval import metric as known_metric
    from hetero.retrieval.codecs import load_gallery
    from hetero_devices.space import Embeddings

    known_metric(metric)  # a misspelt name is refused before the search

    query_side = {name: Embeddings.load(folder) for name, folder in map(_named, queries)}
    gallery_side = {name: load_gallery(folder) for name, folder in map(_named, galleries)}
    crossed = cross_evaluate(query_side, gallery_side, across_spaces=across_spaces)
    matrix = crossed.matrix(metric, by_class=by_class)
    series = _series(matrix)
    if as_json:
        print_json(matrix.to_json() | series)
        return
    print_matrix(matrix)
    for name, value in series.items():
        click.echo(f"{name.replace('_', ' ')}: {value:.4f}")


def _series(matrix: Matrix) -> dict[str, float]:
    """AC and AA where every cell of a square matrix of at least two models has a value."""
    from hetero.retrieval import average_accuracy, average_compatibility

    if matrix.queries != matrix.galleries or len(matrix.queries) < 2:
        return {}
    scores = matrix.scores()
    if any(cell is None for row in matrix.cells for cell in row):
        return {}
    return {
        "average_compatibility": average_compatibility(scores),
        "average_accuracy": average_accuracy(scores),
    }


def _named(pair: str) -> tuple[str, Path]:
    name, equals, folder = pair.partition("=")
    if not equals or not name or not folder:
        raise click.BadParameter(f"{pair!r} is not NAME=FOLDER")
    return name, Path(folder)
