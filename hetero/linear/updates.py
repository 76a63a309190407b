"""Updates of one network as things to keep, add and average; updates of different networks do not mix.

Tangent models of one w0 share a Jacobian, so that composing updates composes predictions (Liu & Soatto,
Tangent Model Composition, ICCV 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hetero.linear.tangent import Tangent
from hetero.tensors import load_tensors, save_tensors
from hetero_devices.errors import ModelError

_KIND = "tangent update"


@dataclass(frozen=True)
class TangentUpdate:
    """digest: of the network at w0; delta: w - w0 by the network's own names, for those that moved."""

    digest: str
    delta: dict[str, Tensor]

    @classmethod
    def of(cls, tangent: Tangent) -> TangentUpdate:
        """A copy of a tangent's update."""
        return cls(tangent.digest, {name: t.detach().clone() for name, t in tangent.delta().items()})

    def into(self, tangent: Tangent) -> None:
        """Set a tangent's update; ModelError for another network, or one in which fewer layers move."""
        if self.digest != tangent.digest:
            raise ModelError("the update starts from another network: give the one it was computed for")
        zeros = {name: torch.zeros_like(tensor) for name, tensor in tangent.start().items()}
        if not self.delta.keys() <= zeros.keys():
            raise ModelError("the update moves layers that this tangent keeps: build it with moving=None")
        tangent.move({**zeros, **self.delta})

    def save(self, path: Path) -> None:
        """Write as safetensors with the digest, whole or not at all."""
        save_tensors(path, self.delta, {"kind": _KIND, "network": self.digest})

    @classmethod
    def load(cls, path: Path) -> TangentUpdate:
        """What `save` wrote; ModelError for anything else, and for numbers that are not finite."""
        tensors, metadata = load_tensors(path)
        if metadata.get("kind") != _KIND or "network" not in metadata:
            raise ModelError(f"{path} is no tangent update: it lacks the digest of the network it changes")
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise ModelError(f"{path} holds NaN or infinity: compute the update again")
        return cls(metadata["network"], tensors)


def composed(updates: Sequence[TangentUpdate], weights: Sequence[float] | None = None) -> TangentUpdate:
    """sum_m weights_m (w_m - w0); weights None adds them, 1/M each averages.

    The prediction of the result changes by the same sum of the models' changes: with weights that sum to one
    it is the ensemble's, at the cost of one model. A sum is the joint optimum only where the Jacobians on the
    two data sets are orthogonal. ModelError for no updates, or updates of different networks.
    """
    factors = [1.0] * len(updates) if weights is None else list(weights)
    if not updates or len(factors) != len(updates):
        raise ModelError(
            f"{len(updates)} updates with {len(factors)} weights: give one each, and at least one"
        )
    if len({update.digest for update in updates}) > 1:
        raise ModelError("updates of different networks do not compose: they must start from one w0")
    total: dict[str, Tensor] = {}
    for update, factor in zip(updates, factors, strict=True):
        for name, tensor in update.delta.items():
            total[name] = total[name] + factor * tensor if name in total else factor * tensor
    return TangentUpdate(updates[0].digest, total)
