"""What `upgrade.py` compares: ways to a new model for an old gallery, and settings of each to choose from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from hetero.data.imageset import ImageSet
from hetero.objectives.terms import TermConfig
from hetero.recipes.builtin import UPGRADE_OBJECTIVE
from hetero.recipes.resolve import changed
from hetero.upgrades.links import method_named
from hetero.upgrades.links.method import Method
from hetero_devices.space import Embeddings, Space
from objectives_grid import Setting

_objective: TypeAdapter[tuple[TermConfig, ...]] = TypeAdapter(tuple[TermConfig, ...])


@dataclass(frozen=True)
class LinkSetting:
    """A link between the old model and the new one that was trained alone, or the merging of both searches.

    method: None for merging by calibrated score.
    """

    method: Method | None

    @property
    def digest(self) -> str:
        """16 hex digits that name the setting's cells."""
        return hashlib.sha256(f"link {self}".encode()).hexdigest()[:16]

    def __str__(self) -> str:
        if self.method is None:
            return "half of the gallery re-embedded, calibrated scores"
        own = self.method.model_dump(mode="json", exclude={"kind"}, exclude_defaults=True)
        return f"{self.method.kind} {json.dumps(own)}" if own else self.method.kind


@dataclass(frozen=True)
class ExtendedSetting(Setting):
    """A training of a network with dimensions beside the old space's, as BCT and BT2 have them."""

    extra: int = 32

    @property
    def digest(self) -> str:
        """16 hex digits that name the setting's cells."""
        return hashlib.sha256(f"{super().digest} {self.extra} more".encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{super().__str__()}, {self.extra} dimensions more"


AnySetting = Setting | LinkSetting


def _trained(*objectives: list[dict[str, Any]], kind: type[Setting] = Setting) -> tuple[AnySetting, ...]:
    """Two objectives at the data set's rate, the second also at twice the rate."""
    rates = ((objectives[0], 1.0), (objectives[-1], 1.0), (objectives[-1], 2.0))
    return tuple(kind(_objective.validate_python(terms), rate) for terms, rate in rates)


def _links(kind: str, *changes: list[str]) -> tuple[AnySetting, ...]:
    return tuple(LinkSetting(changed(method_named(kind), each)) for each in changes)


_OWN: dict[str, Any] = {"term": "margin_softmax"}
_DEFAULT = [term.model_dump(mode="json") for term in UPGRADE_OBJECTIVE]
_LIGHT: list[dict[str, Any]] = [
    _DEFAULT[0],
    *({**term, "weight": term["weight"] / 3} for term in _DEFAULT[1:]),
]

DEFAULT, MERGE = "default", "rank merge"


def _bct(**fields: Any) -> tuple[AnySetting, ...]:
    """Two weights of the influence."""
    return _trained(*([_line("bct", influence=weight, **fields)] for weight in (1, 3)))


def _beside_own(term: str, *weights: float) -> tuple[AnySetting, ...]:
    """An own classifier, and a term at two weights."""
    return _trained(*([_OWN, _line(term, weight=weight)] for weight in weights))


def _line(term: str, **fields: Any) -> dict[str, Any]:
    return {"term": term, **fields}


ROWS: dict[str, tuple[AnySetting, ...]] = {
    "L2": _beside_own("l2_regression", 1, 10),
    "BCT": _bct(normalised=False),
    "BCT, normalised head": _bct(margin=0.2),
    "contrastive": _beside_own("cross_supcon", 1, 10),
    DEFAULT: _trained(_LIGHT, _DEFAULT),
    "default, extended": _trained(_LIGHT, _DEFAULT, kind=ExtendedSetting),
    "BT2": _trained([{"term": "basis"}], [{"term": "basis", "pseudo": 1, "old": 5}]),
    "HOC": _trained([{"term": "hoc"}], [{"term": "hoc", "share": 0.5}]),
    "UGD": _trained([{"term": "ugd"}], [{"term": "ugd", "beta": 1.0}]),
    "Procrustes": _links("procrustes", [], ["centred=false"]),
    "lambda-orthogonal": _links("lambda_orthogonal", [], ["threshold=2"], ["contrast=1"]),
    "FCT": _links("fct", [], ["hidden=128", "mixer=1024"], ["descent.steps=1000"]),
    MERGE: (LinkSetting(None),),
}
"""All rows but `independent`, which is the paragon against the old gallery."""

PIXELS = Space(hashlib.sha256(b"principal components of pixels").hexdigest()[:16], 64)
_SIDE = 16


def side_information(train: ImageSet, images: ImageSet) -> Embeddings:
    """FCT's side information here: 64 principal components of grey 16 px images; they need no model.

    The paper stores self-supervised features; these are weaker, and both generations know them.
    """
    known = _grey(train)
    mean = known.mean(0)
    axes = np.linalg.svd(known - mean, full_matrices=False)[2][: PIXELS.dim]
    found = (_grey(images) - mean) @ axes.T
    unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)
    return Embeddings(unit.astype(np.float32), images.ids, images.labels, PIXELS)


def _grey(images: ImageSet) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64 [N, 256]: means over channels and over the pixels of each of 16 x 16 cells."""
    size = images.size // _SIDE * _SIDE
    grey = np.stack([image[:size, :size].mean(2) for image in images.images])
    cells = grey.reshape(len(grey), _SIDE, size // _SIDE, _SIDE, size // _SIDE)
    flat: np.ndarray[Any, np.dtype[np.float64]] = cells.mean((2, 4)).reshape(len(grey), -1) / 255
    return flat
