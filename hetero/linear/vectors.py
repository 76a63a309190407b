"""Updates as one flat vector, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def flat(tensors: Mapping[str, Tensor]) -> Tensor:
    """Tensors by name -> float [P], in the order of the names given."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def shaped(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float [P] -> tensors of the names, order and shapes of `like`; views of the vector."""
    parts = torch.split(vector, [tensor.numel() for tensor in like.values()])
    return {name: part.view(like[name].shape) for name, part in zip(like, parts, strict=True)}
