"""A progress bar with an estimate, for people only: silent when standard error is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield from `iterable`, drawing a bar with the remaining time on a terminal."""
    if not sys.stderr.isatty():
        yield from iterable
        return
    from rich.console import Console
    from rich.progress import track as draw

    yield from draw(iterable, description, total=total, console=Console(stderr=True), transient=True)


@contextmanager
def counter(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of `total` items; yields a function that is called with the number of items just done."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
