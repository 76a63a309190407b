"""Re-parameterisation before export: training-time branches become one convolution, and it is checked.

RepVGG (Ding et al., 2021), MobileOne (Vasu et al., 2022) and their kin train with parallel branches that add
up to one convolution. Their implementations offer it under one of three names, which are looked for here.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from hetero_devices.errors import ModelError

LIMIT = 1e-4
"""Largest relative change of an embedding by fusing, |fused - plain| / |plain|. Rounding in float32 through a
network of twenty fused layers stays below 1e-5; a forgotten epsilon or bias gives 1e-2 and more."""

_IN_PLACE = ("reparameterize", "switch_to_deploy")
_IMAGES = 4


def fused(network: nn.Module, size: int) -> nn.Module:
    """A copy with every re-parameterisable block fused, on the CPU in evaluation mode; the network itself
    where there is none.

    size: of the images it is checked on, float32 [4, 3, size, size] of noise with the spread of pixels.
    Raises ModelError when the embeddings change by more than LIMIT, or a block cannot be fused.
    """
    if not any(_fusible(module) for module in network.modules()):
        return network
    plain = deepcopy(network).cpu().eval().requires_grad_(False)
    images = torch.rand(_IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = plain(images)
        _fuse(plain)
        change = _relative(plain(images), expected)
    if not change <= LIMIT:
        raise ModelError(
            f"re-parameterising changes the embeddings by {change:.1e} (at most {LIMIT:.0e}): "
            "the network's own fusing is wrong; correct it, or export the network already fused"
        )
    return plain


def _fusible(module: nn.Module) -> bool:
    return any(callable(getattr(module, name, None)) for name in _IN_PLACE)


def _fuse(network: nn.Module) -> None:
    """In place, every block by its own method; outer blocks first, as they may build on their children."""
    for module in list(network.modules()):
        for name in _IN_PLACE:
            method = getattr(module, name, None)
            if callable(method):
                try:
                    method()
                except Exception as error:  # somebody else's code raises whatever it likes
                    what = " ".join(str(error).split())[:150]
                    raise ModelError(f"{type(module).__name__}.{name} failed: {what}") from error
                break


def _relative(found: Tensor, expected: Tensor) -> float:
    difference = (found - expected).norm(dim=1) / expected.norm(dim=1).clamp(min=1e-12)
    return float(difference.max())
