"""A cost model of blocks that were not measured: what their features cost, learnt from those that were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import DeviceError

_SWEEPS = 3000
_RIDGE = 1e-4  # features that grow together share what they explain; alone, the first would take it all


class Block(Protocol):
    """A part of a network. key: decides its cost; kind: which cost model; features: what that model sees."""

    @property
    def key(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def features(self) -> Mapping[str, float]: ...


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measured block: its milliseconds inside a network, its kind and its features."""

    ms: float
    kind: str
    features: dict[str, float]


@dataclass(frozen=True)
class Errors:
    """Of predictions, relative to what was measured: median and 90th percentile, over `count` of them."""

    median: float
    p90: float
    count: int

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> Errors:
        relative = np.abs(np.array(predicted) / np.array(measured) - 1)
        median, p90 = np.quantile(relative, [0.5, 0.9]).tolist()
        return cls(median, p90, len(relative))


@dataclass(frozen=True)
class CostModel:
    """Milliseconds of a block as a sum of its features, each at a non-negative price; prices by kind."""

    prices: dict[str, dict[str, float]]

    @classmethod
    def fit(cls, rows: Sequence[Row]) -> CostModel:
        """Prices with the least sum of squared relative errors."""
        return cls({kind: _prices([row for row in rows if row.kind == kind]) for kind in _kinds(rows)})

    def price(self, block: Block) -> float:
        """Milliseconds; DeviceError for a kind, or a feature of its blocks, of which nothing was measured."""
        if block.kind not in self.prices:
            raise DeviceError(f"no block of kind {block.kind!r} was measured: measure some of them first")
        found = {name for name, value in block.features.items() if value}
        if unseen := sorted(found - self.prices[block.kind].keys()):
            raise DeviceError(
                f"{block.key} cannot be priced: no block of kind {block.kind!r} with {unseen[0]} was measured"
            )
        return self.total(block.kind, block.features)

    def total(self, kind: str, features: Mapping[str, float]) -> float:
        """Milliseconds; features of which nothing was measured cost nothing."""
        prices = self.prices[kind]
        return sum(prices.get(name, 0.0) * value for name, value in features.items())


def cross_validated(rows: Sequence[Row], folds: int = 10, seed: int = 0) -> dict[str, Errors]:
    """By kind: errors of prices fitted without the block in question; kinds of at least two rows."""
    errors = {}
    for kind in _kinds(rows):
        own = [row for row in rows if row.kind == kind]
        if len(own) > 1:
            errors[kind] = _cross_validated(own, min(folds, len(own)), seed)
    return errors


def _cross_validated(rows: list[Row], folds: int, seed: int) -> Errors:
    order = np.random.default_rng(seed).permutation(len(rows))
    predicted = np.empty(len(rows))
    for fold in range(folds):
        held = set(order[fold::folds].tolist())
        model = CostModel.fit([row for index, row in enumerate(rows) if index not in held])
        for index in held:
            predicted[index] = model.total(rows[index].kind, rows[index].features)
    return Errors.of(predicted.tolist(), [row.ms for row in rows])


def _kinds(rows: Sequence[Row]) -> list[str]:
    return sorted({row.kind for row in rows})


def _prices(rows: Sequence[Row]) -> dict[str, float]:
    names = sorted({name for row in rows for name in row.features})
    seen = np.array([[row.features.get(name, 0.0) for name in names] for row in rows])
    relative = seen / np.array([row.ms for row in rows])[:, None]
    return dict(zip(names, _non_negative(relative, np.ones(len(rows))).tolist(), strict=True))


def _non_negative(matrix: npt.NDArray[Any], target: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The x >= 0 of least |matrix x - target|^2, by coordinate descent; columns of zeros get 0."""
    lengths = np.linalg.norm(matrix, axis=0)
    scaled = matrix / np.where(lengths > 0, lengths, 1)
    gram, aim = scaled.T @ scaled + _RIDGE * np.eye(len(lengths)), scaled.T @ target
    x = np.zeros(matrix.shape[1])
    for _ in range(_SWEEPS):
        before = x.copy()
        for j in np.flatnonzero(lengths):
            x[j] = max(0.0, x[j] + (aim[j] - gram[j] @ x) / gram[j, j])
        if np.abs(x - before).max(initial=0.0) < 1e-10:
            break
    solution: npt.NDArray[Any] = x / np.where(lengths > 0, lengths, 1)
    return solution
