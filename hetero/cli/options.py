"""Options and output that several verbs share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hetero_devices.errors import require
from hetero_devices.runtimes.base import FORMATS

if TYPE_CHECKING:
    from hetero.report import Gate

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on standard output."
)
seed_option = click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed, instead of the recipe's.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
root_option = click.option("--root", type=click.Path(path_type=Path), help="Folder of the named data sets.")
split_option = click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    show_default=True,
    help="Of the images.",
)
run_argument = click.argument("run", type=click.Path(path_type=Path))


def search_options(command: F) -> F:
    """What a bundle from elsewhere is searched with, and by whose thresholds it is judged."""
    for option in (
        click.option(
            "--recipe", default="demo", show_default=True, help="Whose gates: a name or a YAML file."
        ),
        root_option,
        split_option,
        click.option(
            "--reference",
            type=click.Path(path_type=Path),
            help="The float model's embeddings of the queries  [default: the bundle's fp32 model]",
        ),
        click.option(
            "--gallery", type=click.Path(path_type=Path), help="The anchor's embeddings to search among."
        ),
        click.option("--queries", metavar="SOURCE", help="Labelled images to search with."),
        click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Only this one."),
    ):
        command = option(command)
    return command


def need_training_stack() -> None:
    """One clear message, instead of an import error, where only the device part is installed."""
    for module in ("torch", "pydantic", "yaml", "safetensors", "PIL"):
        require(module, "train")


def need_export_stack() -> None:
    """As `need_training_stack`, for converters."""
    need_training_stack()
    for module in ("onnx", "onnxscript", "litert_torch", "ai_edge_quantizer"):
        _find(module)


def _find(module: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        require(module, "export")


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))


def print_gate(gate: Gate) -> None:
    """One line: verdict, name, what was measured, what was required, and the detail."""
    from hetero.report.wording import measured, requirement

    state = click.style("pass", fg="green") if gate.passed else click.style("FAIL", fg="red")
    click.echo(f"{state}  {gate.name:40} {measured(gate)} ({requirement(gate)})  {gate.detail}")


def with_seed(overrides: tuple[str, ...], seed: int | None) -> tuple[str, ...]:
    """`--seed` is the override seed=N."""
    return overrides if seed is None else (*overrides, f"seed={seed}")
