"""`hetero verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hetero.cli.options import (
    json_option,
    need_training_stack,
    print_gate,
    print_json,
    search_options,
    seed_option,
)
from hetero_devices.verify import Check, verify

if TYPE_CHECKING:
    from hetero.report import Gate


@click.command("verify")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--gate", is_flag=True, help="Also apply the recipe's gates; --queries implies it.")
@search_options
@seed_option
@json_option
def command(
    bundle: Path,
    overrides: tuple[str, ...],
    formats: tuple[str, ...],
    gate: bool,
    queries: str | None,
    gallery: Path | None,
    reference: Path | None,
    split: str,
    root: Path | None,
    recipe: str,
    seed: int | None,
    as_json: bool,
) -> None:
    """Check a bundle: hashes, input contract, unit norm, and every model against the golden vectors.

    The models run in fresh processes that cannot import torch (but for ExecuTorch's, which needs it). With
    --gate the thresholds of a recipe (gates.KEY=VALUE changes them) are applied; with --queries and --gallery
    also those on retrieval: each artefact against the float model, searching the anchor's stored gallery.
    SOURCE is data as in `hetero embed`, with the same splits and labels; --gallery is a folder that `hetero
    embed` or `hetero compress` wrote. Exit code 1 if a check or a gate fails.

    \b
    Example:
      hetero verify runs/demo/bundle --queries glyphs --gallery cloud/test gates.int8_recall_drop=0.005
    """
    if (queries is None) != (gallery is None) or (reference and queries is None):
        raise click.UsageError("retrieval gates need both --queries and --gallery")
    gate = gate or queries is not None
    if not gate and (overrides or recipe != "demo"):
        raise click.UsageError("thresholds are given, but no gate is asked for: add --gate")
    checks = verify(bundle, formats=formats or None)  # type: ignore[arg-type]
    gated: tuple[Gate, ...] = ()
    if gate:
        search = {"reference": reference, "split": split, "root": root, "seed": seed or 0}
        gated = _gates(bundle, recipe, overrides, formats, queries, gallery, search)
    if as_json:
        print_json([*map(asdict, checks), *map(asdict, gated)])
    else:
        for check in checks:
            click.echo(_line(check))
        for each in gated:
            print_gate(each)
    passed = all(check.passed for check in checks) and all(each.passed for each in gated)
    sys.exit(0 if passed else 1)


def _gates(
    bundle: Path,
    recipe: str,
    overrides: tuple[str, ...],
    formats: tuple[str, ...],
    queries: str | None,
    gallery: Path | None,
    search: dict[str, Any],
) -> tuple[Gate, ...]:
    need_training_stack()
    from hetero.recipes.resolve import resolve
    from hetero.runs.bundle_gates import Search, gate_bundle
    from hetero_devices.bundle import Bundle

    resolved, opened = resolve(recipe, overrides), Bundle.open(bundle)
    size = opened.manifest.preprocessing.size
    return gate_bundle(
        opened,
        resolved.gates,
        search=Search.load(queries, gallery, size=size, **search) if queries and gallery else None,
        formats=formats or None,
        measuring=resolved.measure,
    )


def _line(check: Check) -> str:
    state = click.style("pass", fg="green") if check.passed else click.style("FAIL", fg="red")
    numbers = "" if check.value is None else f"{check.value:.2e} (at most {check.threshold:.2e})  "
    return f"{state}  {check.name:32} {numbers}{check.detail}"
