"""`hetero verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from hetero.cli.options import json_option, print_json
from hetero_devices.verify import Check, verify


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(["onnx", "tflite"]), help="Only this one."
)
@json_option
def command(bundle: Path, formats: tuple[str, ...], as_json: bool) -> None:
    """Check a bundle: hashes, input contract, unit norm, and every model against the golden vectors.

    The models run in a fresh process that cannot import torch. Exit code 1 if a check fails. Retrieval
    gates against the anchor's gallery are part of `hetero report`.

    \b
    Example:
      hetero verify runs/demo/bundle
    """
    checks = verify(bundle, formats=formats or None)  # type: ignore[arg-type]
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            click.echo(_line(check))
    sys.exit(0 if all(check.passed for check in checks) else 1)


def _line(check: Check) -> str:
    state = click.style("pass", fg="green") if check.passed else click.style("FAIL", fg="red")
    numbers = "" if check.value is None else f"{check.value:.2e} (at most {check.threshold:.2e})  "
    return f"{state}  {check.name:32} {numbers}{check.detail}"
