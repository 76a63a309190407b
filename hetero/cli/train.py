"""`hetero train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hetero.cli.options import (
    dry_run_option,
    json_option,
    need_training_stack,
    print_json,
    seed_option,
    with_seed,
)

if TYPE_CHECKING:
    from hetero.models.store import Model
    from hetero.runs import Run


@click.command("train")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--run", "folder", type=click.Path(path_type=Path), help="Run folder  [default: runs/RECIPE]")
@seed_option
@dry_run_option
@json_option
def command(
    recipe: str,
    overrides: tuple[str, ...],
    folder: Path | None,
    seed: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train the anchor (unless it is brought), the compatible student, and the same network alone.

    RECIPE is a built-in name (demo, omniglot, cifar100, caltech101, upgrade) or a YAML file; KEY=VALUE
    pairs change it. Killed at any moment, the same command continues and ends with the same weights.

    \b
    Example:
      hetero train omniglot data.root=~/data student.network=elastic-s --run runs/small
    """
    need_training_stack()
    from hetero.recipes.resolve import resolve
    from hetero.runs import Run
    from hetero.runs.extension import LINK, link_to_anchor

    resolved = resolve(recipe, with_seed(overrides, seed))
    if dry_run:
        print_json(resolved.model_dump(mode="json"))
        return
    run = Run.open(folder or Path("runs") / resolved.name, resolved)
    trained = {"student": run.student} | ({"alone": run.alone} if resolved.student.alone else {})
    summary = {"run": str(run.folder), "space": run.anchor.space.to_json(), **_costs(run, trained)}
    if resolved.student.dimension == "extended":
        cosine = link_to_anchor(run).fitted.cosine
        summary["link"] = {"file": str(run.folder / "student" / LINK), "cosine": cosine}
    print_json(summary) if as_json else _show(summary)


def _costs(run: Run, trained: dict[str, Model]) -> dict[str, Any]:
    known = {"anchor": run.anchor.cost} | {name: model.cost for name, model in trained.items()}
    return {name: {"macs": c.macs, "parameters": c.parameters} for name, c in known.items() if c}


def _show(summary: dict[str, Any]) -> None:
    for name in ("anchor", "student", "alone"):
        if name in summary:
            cost = summary[name]
            click.echo(
                f"{name:8} {cost['macs'] / 1e6:8.2f} M MACs  {cost['parameters'] / 1e3:8.1f} k parameters"
            )
    if "link" in summary:
        link = summary["link"]
        click.echo(f"link     {link['file']}, into the anchor's space; mean cosine {link['cosine']:.4f}")
    click.echo(f"space    {summary['space']['id']}\nrun      {summary['run']}")
