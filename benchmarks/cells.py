"""Cells of a benchmark on disk: values query by query, so that a killed benchmark continues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hetero.retrieval import PerQuery
from hetero_devices.files import atomic_file

Columns = Sequence[tuple[str, PerQuery]]
"""Values of the same queries, each with the name of what was measured; a metric once a name."""


def kept(path: Path, compute: Callable[[], Columns]) -> Columns:
    """What is on disk, or is computed and put there."""
    if not path.exists():
        _save(path, compute())
    return _load(path)


def _save(path: Path, columns: Columns) -> None:
    first = columns[0][1]
    values: dict[str, Any] = {f"{name}/{column.metric}": column.values for name, column in columns}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, query_ids=first.query_ids, labels=first.labels, **values)


def _load(path: Path) -> Columns:
    with np.load(path) as cell:
        ids, labels = cell["query_ids"], cell["labels"]
        named = [key.rsplit("/", 1) for key in cell.files if "/" in key]
        return [(name, PerQuery(metric, ids, labels, cell[f"{name}/{metric}"])) for name, metric in named]
