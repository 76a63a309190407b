"""`hetero upgrade`."""

from __future__ import annotations

import click

from hetero.cli.evaluate import command as evaluate
from hetero.cli.link import command as link


@click.group("upgrade")
def command() -> None:
    """A new model beside an old gallery: what it is worth, and links between spaces. --json is per verb.

    \b
    Example:
      hetero upgrade evaluate runs/new
      hetero upgrade link fit old-vectors new-vectors -o new-to-old.link
    """


command.add_command(evaluate)
command.add_command(link)
