"""A progress bar with an estimate, for people only: silent when standard error is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
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
