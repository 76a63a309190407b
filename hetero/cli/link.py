"""`hetero upgrade link`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from hetero.cli.options import json_option, need_training_stack, print_json, seed_option

if TYPE_CHECKING:
    from hetero.upgrades.links import Link
    from hetero_devices.space import Embeddings

_KINDS = ("procrustes", "affine", "lambda_orthogonal", "mlp", "fct", "slerp", "prefix")


@click.group("link")
def command() -> None:
    """Post-hoc links: a fitted map from one model's space into another's, without training either model.

    \b
    Example:
      hetero upgrade link fit old-vectors new-vectors -o new-to-old.link
      hetero upgrade link apply new-to-old.link new-queries -o converted
    """


@command.command("fit")
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Link file to write.")
@click.option("--kind", type=click.Choice(_KINDS), default="procrustes", show_default=True)
@click.option(
    "--side", type=click.Choice(["query", "gallery"]), help="What it converts  [default: the kind's]"
)
@click.option(
    "--source",
    type=click.Choice(["old", "new"]),
    help="Whose embeddings it converts  [default: new queries, old galleries]",
)
@click.option(
    "--companion", type=click.Path(path_type=Path), help="Side information of the same images, for fct."
)
@click.option(
    "--holdout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Of the pairs.",
)
@seed_option
@json_option
def fit(
    old: Path,
    new: Path,
    overrides: tuple[str, ...],
    output: Path,
    kind: str,
    side: Literal["query", "gallery"] | None,
    source: str | None,
    companion: Path | None,
    holdout: float,
    seed: int | None,
    as_json: bool,
) -> None:
    """Fit a link between two frozen models from their embeddings of the same training images.

    OLD and NEW are folders that `hetero embed` wrote (their train/ where there is one). On the query side the
    new model's queries are converted for the old gallery; on the gallery side old vectors for new queries.
    With --side query --source old, phones that keep the old model search a gallery of the new one. KEY=VALUE
    pairs change the kind's constants. The file names both spaces and the side, and is refused elsewhere.

    \b
    Kinds: procrustes (a rotation), affine (ridge; rank=64: low rank), lambda_orthogonal, mlp (affine and
    a residual network), fct (gallery side, from stored side information), slerp (queries embedded by both),
    prefix (from an extended student's space into its anchor's; nothing is fitted).

    \b
    Example:
      hetero upgrade link fit old-vectors new-vectors -o new-to-old.link
      hetero upgrade link fit old new --kind affine rank=64 --side query --source old -o phones.link
    """
    need_training_stack()
    from hetero.recipes.resolve import changed
    from hetero.upgrades.links import fit_link, method_named

    if output.is_dir():
        raise click.UsageError(f"{output} is a folder: name a file for the link")
    method = changed(method_named(kind), overrides)
    side = side or method.sides[0]
    sides = [_training(old), _training(new)]
    if (source or ("new" if side == "query" else "old")) == "new":
        sides.reverse()
    extra = _training(companion) if companion else None
    link = fit_link(method, *sides, side=side, companion=extra, holdout=holdout, seed=seed or 0)
    link.save(output)
    _say(link, output, as_json)


@command.command("apply")
@click.argument("link", type=click.Path(path_type=Path))
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--companion", type=click.Path(path_type=Path), help="Third vectors of the same images.")
@click.option("--side", type=click.Choice(["query", "gallery"]), help="Refuse a link of the other side.")
@json_option
def apply(
    link: Path,
    embeddings: Path,
    output: Path,
    companion: Path | None,
    side: Literal["query", "gallery"] | None,
    as_json: bool,
) -> None:
    """Convert embeddings into a link's target space; a folder as `hetero embed` writes is written.

    Embeddings of any other space than the link's source are refused. --companion: for fct the side
    information of the gallery's images, for slerp the old model's embeddings of the queries.

    \b
    Example:
      hetero upgrade link apply new-to-old.link new-queries -o converted
    """
    need_training_stack()
    from hetero.upgrades.links import Link
    from hetero_devices.space import Embeddings, check_target

    check_target(output)
    opened = Link.load(link)
    extra = Embeddings.load(companion) if companion else None
    converted = opened(Embeddings.load(embeddings), extra, side=side)
    converted.save(output)
    fields = {"written": {str(output): len(converted)}, "space": converted.space.to_json()}
    if as_json:
        print_json(fields)
        return
    click.echo(f"{len(converted):7} embeddings in space {converted.space.id} -> {output}")


@command.command("show")
@click.argument("link", type=click.Path(path_type=Path))
@json_option
def show(link: Path, as_json: bool) -> None:
    """Say what a link converts, from which space into which, on which side, and how well it fitted.

    \b
    Example:
      hetero upgrade link show new-to-old.link
    """
    need_training_stack()
    from hetero.upgrades.links import Link

    _say(Link.load(link), link, as_json)


def _training(folder: Path) -> Embeddings:
    from hetero_devices.space import Embeddings

    return Embeddings.load(folder / "train" if (folder / "train").is_dir() else folder)


def _say(link: Link, path: Path, as_json: bool) -> None:
    fields: dict[str, Any] = {
        "link": str(path),
        "digest": link.digest,
        "method": link.method.model_dump(mode="json"),
        "side": link.side,
        "source": link.source.to_json(),
        "target": link.target.to_json(),
        "companion": link.companion.to_json() if link.companion else None,
        "fitted": link.fitted.model_dump(mode="json"),
    }
    if as_json:
        print_json(fields)
        return
    fitted = link.fitted
    click.echo(f"{link}, {link.side} side: {path}")
    click.echo(
        f"fitted on {fitted.pairs - fitted.held} pairs; mean cosine {fitted.cosine:.4f} on "
        f"{fitted.held or fitted.pairs} {'others' if fitted.held else 'of them'}"
    )
