"""The recipes of `search.py` and of `headline.py`, as changes of the built-in ones, by scale and data set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SPACE = (
    "search.space.head=[64,96,128,192,256]",
    "search.space.stages.1.width=[16,24,32,40,48]",
    "search.space.stages.2.width=[24,32,48,64,80,96]",
)
COMMON = {
    "default": (
        "anchor.network=residual-m",
        "anchor.fit.batch=64",
        "student.objective=[{term: csd}]",
        "student.fit.batch=64",
        "student.views=2",
        "search.fit.batch=64",
        "search.algorithm.population=16",
        "search.algorithm.generations=6",
        "search.queries=500",
    ),
    "full": (
        "anchor.network=residual-l",
        "anchor.fit.batch=256",
        "student.fit.batch=256",
        "student.views=8",
        "search.fit.batch=256",
    ),
    "trial": (
        "anchor.network=residual-m",
        "anchor.fit.steps=4",
        "student.fit.steps=4",
        "student.views=1",
        "search.fit.steps=4",
        "search.fit.batch=16",
        "search.algorithm.population=4",
        "search.algorithm.generations=2",
        "search.algorithm.parents=2",
        "search.queries=100",
    ),
}
OF_DATA = {
    "omniglot": {
        "default": ("anchor.fit.steps=3000", "student.fit.steps=1200", "search.fit.steps=1500"),
        "full": ("anchor.fit.steps=60000", "student.fit.steps=60000", "search.fit.steps=60000"),
        "trial": ("data.rotations=false", "data.train_classes=40"),
    },
    "caltech101": {
        "default": (
            "data.size=48",
            "anchor.fit.steps=1500",
            "student.fit.steps=900",
            "search.fit.steps=1000",
            "student.network=elastic-m",
        ),
        "full": ("anchor.fit.steps=20000", "student.fit.steps=30000", "search.fit.steps=30000"),
        "trial": ("data.size=32", "student.network=elastic-xs"),
    },
}
VALIDATION = {"omniglot": "data.validation_share=0.1", "caltech101": "data.validation_share=0.2"}

INHERITED = "student.start={inherited}"
DEPLOYED: dict[str, dict[str, tuple[str, ...]]] = {
    "default": {
        "omniglot": (
            "student.fit.steps=8000",
            "student.fit.batch=256",
            "student.fit.rate=4e-3",
            "student.fit.weight_decay=0.002",
            "student.objective=[{term: csd}, {term: regression}]",
            INHERITED,
        ),
        "caltech101": (
            "student.fit.steps=3000",
            "student.objective=[{term: csd}, {term: regression}]",
            INHERITED,
        ),
    },
    "full": {
        "omniglot": ("student.fit.steps=120000",),
        "caltech101": ("student.fit.steps=60000",),
    },
    "trial": {
        "omniglot": ("student.fit.steps=4", INHERITED),
        "caltech101": ("student.fit.steps=4",),
    },
}
"""Of a student to be deployed (`headline.py`); the default on Omniglot is what helped in `limits.py`, that on
Caltech-101 as much of it as the time allows: it was not tried there."""


def filled(changes: Iterable[str], search: Path) -> list[str]:
    """The changes with the weights that a search left in its folder."""
    return [each.replace("{inherited}", str(search / "inherited.safetensors")) for each in changes]
