"""`hetero upgrade`."""

from __future__ import annotations

import click

from hetero.cli.graph import graph
from hetero.cli.migration import COMMANDS


@click.group("upgrade")
def command() -> None:
    """A new model for an old gallery: plan the order, migrate a store, cut over, roll back.

    The old version stays live and searchable until every image has a new vector. `graph` says which
    models still find their way in which galleries. --json is per verb.

    \b
    Example:
      hetero upgrade plan old/gallery --new-gallery new/gallery --new-queries new/queries -o plan
      hetero upgrade store old/gallery cloud.db
      hetero upgrade apply plan --store cloud.db --embeddings new/gallery
      hetero upgrade status plan
      hetero upgrade rollback plan
    """


for each in (*COMMANDS, graph):
    command.add_command(each)
