"""`hetero doctor`."""

from __future__ import annotations

import click

from hetero.cli.options import json_option, print_json
from hetero.doctor import Finding, examine


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Say what is installed, which extras are missing, and what this CPU can do.

    \b
    Example:
      hetero doctor --json
    """
    findings = examine()
    if as_json:
        print_json([finding.to_json() for finding in findings])
        return
    for finding in findings:
        click.echo(_line(finding))


def _line(finding: Finding) -> str:
    mark = {"ok": click.style("ok     ", fg="green"), "missing": click.style("missing", fg="yellow")}.get(
        finding.state, click.style("note   ", fg="cyan")
    )
    hint = f"  -> {finding.advice}" if finding.advice else ""
    return f"{mark}  {finding.name:22} {finding.detail}{hint}"
