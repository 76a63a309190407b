"""`hetero upgrade`."""

from __future__ import annotations

import click

from hetero.cli.evaluate import command as evaluate
from hetero.cli.graph import graph
from hetero.cli.interpolate import interpolate
from hetero.cli.link import command as link
from hetero.cli.migration import COMMANDS


@click.group("upgrade")
def command() -> None:
    """A new model beside an old gallery: what it is worth, links between spaces, re-embedding in peace.

    `evaluate` and `graph` say which models still find their way in which galleries; `link` fits a map between
    two spaces; `interpolate` mixes an old classifier with its fine-tuned successor; `plan` to `rollback`
    move a gallery, whose old version stays live until every image has a new vector. --json is per verb.

    \b
    Example:
      hetero upgrade evaluate runs/new
      hetero upgrade link fit old-vectors new-vectors -o new-to-old.link
      hetero upgrade plan old/gallery --new-gallery new/gallery --new-queries new/queries -o plan
      hetero upgrade store old/gallery cloud.db
      hetero upgrade apply plan --store cloud.db --embeddings new/gallery
      hetero upgrade status plan
      hetero upgrade rollback plan
    """


for each in (evaluate, graph, interpolate, link, *COMMANDS):
    command.add_command(each)
