"""What benchmarks over several data sets share: their options, and one trained anchor a data set."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch

from hetero.data import QueryGallery, protocol
from hetero.progress import track
from hetero.recipes.builtin import UPGRADE_OBJECTIVE
from hetero.recipes.resolve import resolve
from hetero.runs import Run
from hetero.training.optimizer import FitConfig
from hetero_devices.files import atomic_directory

Split = Literal["validation", "test"]
Task = tuple[Callable[..., None], tuple[Any, ...]]

UPGRADE = f"student.objective={json.dumps([term.model_dump(mode='json') for term in UPGRADE_OBJECTIVE])}"
"""A student that is an upgrade: the library's default towards its old model, as a change of any recipe."""

SWEEP = 0.4
"""Share of the steps that a setting is trained for while settings are compared on validation images."""


def parser(doc: str | None, scales: Iterable[str], data: Iterable[str]) -> argparse.ArgumentParser:
    """--root, --scale, --device, --data and --anchor."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--root", type=lambda p: str(Path(p).resolve()), help="folder of the data sets")
    found.add_argument("--scale", choices=tuple(scales), default="default")
    found.add_argument("--device", default="cpu", help="a torch device, for the trainings")
    found.add_argument("--data", nargs="+", choices=tuple(data), default=list(data))
    found.add_argument("--anchor", nargs="*", default=[], metavar="DATA=FOLDER", help="a trained anchor")
    return found


def trainings(parser: argparse.ArgumentParser, rows: Iterable[str] = ()) -> None:
    """Add --seeds, --workers and, where a table has rows to choose from, --only."""
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes side by side, one thread each")
    if rows:
        parser.add_argument("--only", nargs="+", choices=tuple(rows), default=list(rows))


def side_by_side(tasks: Sequence[Task], options: argparse.Namespace, what: str) -> None:
    """Call every (function, arguments) in --workers processes of one thread; the first error is raised."""
    with ProcessPoolExecutor(options.workers, get_context("spawn"), _begin, (os.getpid(),)) as pool:
        futures = [pool.submit(task, *arguments) for task, arguments in tasks]
        for future in track(as_completed(futures), what, len(futures)):
            future.result()


def _begin(parent: int) -> None:
    """In a new worker: one thread, and an end when the benchmark is killed, lest two write the same files."""
    torch.set_num_threads(1)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def given(options: argparse.Namespace, parts: Sequence[str] = ("anchor", "student")) -> list[str]:
    """What --device and --root change in a recipe."""
    found = [f"{part}.fit.device={options.device}" for part in parts]
    return found + ([f"data.root={options.root}"] if options.root else [])


def images(run: Run, split: Split) -> QueryGallery:
    """A run's validation or test images as queries and gallery."""
    if split == "test":
        return run.test
    name = run.recipe.data.protocol or run.splits.protocol
    return protocol(name, run.splits.validation, run.recipe.seed)


def fit(run: Run, split: Split, rate: float = 1.0) -> FitConfig:
    """The student's training: for validation images a part of it; rate: a factor on the learning rate."""
    whole = run.recipe.student.fit
    steps = max(1, round(whole.steps * SWEEP)) if split == "validation" else whole.steps
    return whole.model_copy(update={"rate": whole.rate * rate, "steps": steps})


def anchor(folder: Path, data: str, options: argparse.Namespace, recipe: Sequence[str]) -> str:
    """The folder of a data set's anchor: the one that was brought, else FOLDER/space/anchor, trained once.

    recipe: changes of the built-in recipe called `data`.
    """
    brought = dict(pair.split("=", 1) for pair in options.anchor)
    if data in brought:
        return str(Path(brought[data]).resolve())
    return _trained(folder / "space", data, (*recipe, *given(options, ["anchor"])))


def share_views(source: Run, target: Path) -> None:
    """Copy the anchor's cached views to another run's folder, so that they are not embedded again.

    A run that needs other views refuses these when it reads them.
    """
    views = Path("anchor", "views")
    if (source.folder / views).is_dir() and not (target / views).exists():
        with atomic_directory(target / views) as temporary:
            shutil.copytree(source.folder / views, temporary, dirs_exist_ok=True)


@cache
def _trained(folder: Path, data: str, changes: tuple[str, ...]) -> str:
    run = Run.open(folder, resolve(data, changes))
    _ = run.whole_anchor
    return str(run.folder / "anchor")
