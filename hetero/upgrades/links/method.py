"""What a method of linking is: a configuration that fits a map to pairs, and builds it again from a file."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hetero.config import Config

Side = Literal["query", "gallery"]
"""The side of a search that a link converts."""


@dataclass(frozen=True)
class Pairs:
    """The same images in both spaces. Row i of everything is one image.

    source: unit float32 [N, Ds]; target: unit float32 [N, Dt]; labels: int64 [N];
    companion: unit float32 [N, Dc], a third vector of every image for the methods that take one, or None;
    held: bool [N], pairs that are kept from the fit, for choosing constants; seed: of everything drawn.
    """

    source: Tensor
    target: Tensor
    labels: Tensor
    companion: Tensor | None
    held: Tensor
    seed: int

    def part(self, held: bool) -> Pairs:
        """The pairs held back, or those to fit on; all of them where none are held back."""
        rows = self.held if held and bool(self.held.any()) else ~self.held
        companion = None if self.companion is None else self.companion[rows]
        none = torch.zeros(int(rows.sum()), dtype=torch.bool)
        return Pairs(self.source[rows], self.target[rows], self.labels[rows], companion, none, self.seed)


@dataclass(frozen=True)
class Dims:
    """Dimensions of the source, of the target, and of the companion (0: none)."""

    source: int
    target: int
    companion: int = 0


class Method(Config):
    """A way of linking two spaces. A new one is a subclass in its own file, listed in `methods.py`.

    sides: which sides it may convert, the usual one first; companion: what the third vector is of every
    image that is converted, or None where it takes none; companion_is_target: whether these live in the
    target space; exports: whether the map is a plain network that
    can follow a student on a phone; source: where it was published.
    """

    sides: ClassVar[tuple[Side, ...]] = ("query", "gallery")
    companion: ClassVar[str | None] = None
    companion_is_target: ClassVar[bool] = False
    exports: ClassVar[bool] = True
    source: ClassVar[str]

    kind: str

    @abstractmethod
    def fit(self, pairs: Pairs) -> nn.Module:
        """The map fitted to pairs: unit float32 [N, Ds] (, companion [N, Dc]) -> float32 [N, Dt].

        Its output need not be of unit length: a link normalises.
        """

    @abstractmethod
    def build(self, dims: Dims) -> nn.Module:
        """The same map with any weights: those of a file follow."""
