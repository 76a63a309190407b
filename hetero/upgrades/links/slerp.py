"""Between the old query and the rotated new one, on the sphere."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.retrieval import MAP, evaluate
from hetero.upgrades.links.method import Dims, Method, Pairs, Side
from hetero.upgrades.links.procrustes import rotation_layer
from hetero_devices.space import Embeddings, Space

GRID = tuple(i / 10 for i in range(11))
"""Shares of the new query among which the best on labelled pairs is chosen."""

_PARALLEL = 1e-4  # radians below which a straight line is as good, and sin(angle) too small to divide by


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """sin((1 - t) w) / sin(w) start + sin(t w) / sin(w) end, cos(w) = <start, end>; unit float [N, D] all.

    Shoemake, SIGGRAPH 1985. Nearly parallel pairs are joined by a straight line, normalised.
    """
    angle = (start * end).sum(1, keepdim=True).clamp(-1, 1).arccos()
    straight = F.normalize((1 - share) * start + share * end, dim=1)
    sine = angle.sin()
    safe = torch.where(sine > _PARALLEL, sine, torch.ones_like(sine))
    arc = (((1 - share) * angle).sin() * start + (share * angle).sin() * end) / safe
    return torch.where(sine > _PARALLEL, arc, straight)


class SlerpMap(nn.Module):
    """float32 [N, Ds], the old model's query [N, Dt] -> float32 [N, Dt]."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        self.rotation = nn.Linear(dims.source, dims.target)
        self.register_buffer("share", torch.zeros(()))

    share: Tensor

    def forward(self, new: Tensor, old: Tensor) -> Tensor:
        return slerp(old, F.normalize(self.rotation(new), dim=1), float(self.share))


class Slerp(Method):
    """Rotate the new query into the old space, then go a share of the way to it from the old query.

    Both models embed every query, so it serves queries in the cloud, not on a phone. The share is chosen on
    labelled pairs unless it is given: by mAP of the held-out pairs against their own old vectors.
    """

    sides: ClassVar[tuple[Side, ...]] = ("query",)
    companion: ClassVar[str | None] = "the target model's own embeddings of the same images"
    companion_is_target: ClassVar[bool] = True
    exports: ClassVar[bool] = False
    source = "SLERP backward compatibility, 2026: Procrustes, then slerp; grid of this library"
    kind: Literal["slerp"] = "slerp"
    share: float | None = Field(default=None, ge=0, le=1, description="of the new query; chosen by default")

    def fit(self, pairs: Pairs) -> nn.Module:
        fitted, chosen_on = pairs.part(held=False), pairs.part(held=True)
        found = SlerpMap(Dims(fitted.source.shape[1], fitted.target.shape[1]))
        found.rotation.load_state_dict(rotation_layer(fitted.source, fitted.target).state_dict())
        found.share.fill_(_best_share(found, chosen_on) if self.share is None else self.share)
        return found.requires_grad_(False)

    def build(self, dims: Dims) -> nn.Module:
        return SlerpMap(dims)


@torch.no_grad()
def _best_share(network: SlerpMap, pairs: Pairs) -> float:
    """The share of the grid with the best mAP in the gallery of target vectors; the smaller of equals."""
    gallery = _embeddings(pairs.target, pairs.labels)
    new = F.normalize(network.rotation(pairs.source), dim=1)
    scores = [
        evaluate(_embeddings(slerp(pairs.target, new, share), pairs.labels), gallery).means[MAP]
        for share in GRID
    ]
    return GRID[int(np.argmax(scores))]


def _embeddings(vectors: Tensor, labels: Tensor) -> Embeddings:
    """Vectors of one list of images, only to be compared with each other here."""
    space = Space("0" * 16, vectors.shape[1])
    return Embeddings(vectors.float().numpy(), np.arange(len(vectors)), labels.numpy(), space)
