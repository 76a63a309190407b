"""`hetero matrix`."""

from __future__ import annotations

from pathlib import Path

import click

from hetero.cli.options import json_option, need_training_stack, print_json


@click.command("matrix")
@click.option(
    "--query", "queries", multiple=True, required=True, metavar="NAME=FOLDER", help="Query embeddings."
)
@click.option(
    "--gallery", "galleries", multiple=True, required=True, metavar="NAME=FOLDER", help="Gallery embeddings."
)
@click.option(
    "--metric", default="recall@1", show_default=True, help="recall@1, recall@5, recall@10, map, map@r"
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

    Folders are those `hetero embed` writes. Models of different spaces are refused unless asked for. An
    image that is on both sides does not find itself.

    \b
    Example:
      hetero matrix --query phone=phone/test --gallery cloud=cloud/test
    """
    need_training_stack()
    from hetero.report.terminal import print_matrix
    from hetero.retrieval import cross_evaluate
    from hetero_devices.space import Embeddings

    def loaded(pairs: tuple[str, ...]) -> dict[str, Embeddings]:
        return {name: Embeddings.load(folder) for name, folder in map(_named, pairs)}

    crossed = cross_evaluate(loaded(queries), loaded(galleries), across_spaces=across_spaces)
    matrix = crossed.matrix(metric, by_class=by_class)
    print_json(matrix.to_json()) if as_json else print_matrix(matrix)


def _named(pair: str) -> tuple[str, Path]:
    name, equals, folder = pair.partition("=")
    if not equals or not name or not folder:
        raise click.BadParameter(f"{pair!r} is not NAME=FOLDER")
    return name, Path(folder)
