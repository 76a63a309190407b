"""What benchmarks over several data sets share: their options, and one trained anchor a data set."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from hetero.recipes.resolve import resolve
from hetero.runs import Run


def parser(doc: str | None, scales: Iterable[str], data: Iterable[str]) -> argparse.ArgumentParser:
    """--root, --scale, --device, --data and --anchor."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--root", type=lambda p: str(Path(p).resolve()), help="folder of the data sets")
    found.add_argument("--scale", choices=tuple(scales), default="default")
    found.add_argument("--device", default="cpu", help="a torch device, for the trainings")
    found.add_argument("--data", nargs="+", choices=tuple(data), default=list(data))
    found.add_argument("--anchor", nargs="*", default=[], metavar="DATA=FOLDER", help="a trained anchor")
    return found


def anchor(folder: Path, data: str, options: argparse.Namespace, recipe: Sequence[str]) -> str:
    """The folder of a data set's anchor: the one that was brought, else FOLDER/space/anchor, trained once.

    recipe: changes of the built-in recipe called `data`.
    """
    brought = dict(pair.split("=", 1) for pair in options.anchor)
    if data in brought:
        return str(Path(brought[data]).resolve())
    given = [*recipe, f"anchor.fit.device={options.device}"]
    given += [f"data.root={options.root}"] if options.root else []
    return _trained(folder / "space", data, tuple(given))


@cache
def _trained(folder: Path, data: str, given: tuple[str, ...]) -> str:
    run = Run.open(folder, resolve(data, given))
    _ = run.whole_anchor
    return str(run.folder / "anchor")
