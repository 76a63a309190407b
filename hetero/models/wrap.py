"""Encoders seen otherwise: cut to the first dimensions of their space, or on another device."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import numpy.typing as npt

from hetero.models.anchor import Anchor
from hetero.models.encoder import Encoder, Images, TorchEncoder
from hetero_devices.space import Preprocessing, Space
from hetero_devices.space.prefix import prefix, prefix_space, prefix_vectors


class PrefixEncoder:
    """The first dimensions of another encoder's embeddings, normalised anew."""

    def __init__(self, whole: Encoder, dim: int) -> None:
        self.whole = whole
        self.space: Space = prefix_space(whole.space, dim)

    @property
    def preprocessing(self) -> Preprocessing:
        return self.whole.preprocessing

    def encode(self, images: Images) -> npt.NDArray[np.float32]:
        return prefix_vectors(self.whole.encode(images), self.space.dim)


def on_device(encoder: Encoder, device: str) -> Encoder:
    """The same encoder with a copy of its weights on a torch device, where it has any."""
    if isinstance(encoder, PrefixEncoder):
        return PrefixEncoder(on_device(encoder.whole, device), encoder.space.dim)
    if device == "cpu" or not isinstance(encoder, TorchEncoder):
        return encoder
    return TorchEncoder(deepcopy(encoder.deploy).to(device), encoder.space, encoder.block)


def prefix_anchor(anchor: Anchor, dim: int) -> Anchor:
    """The anchor in the space of its first `dim` dimensions; its head is cut likewise."""
    return Anchor(
        space=prefix_space(anchor.space, dim),
        encoder=PrefixEncoder(anchor.encoder, dim) if anchor.encoder else None,
        head=anchor.head[:, :dim].contiguous() if anchor.head is not None else None,
        cost=anchor.cost,
        stored={split: prefix(embeddings, dim) for split, embeddings in anchor.stored.items()},
        classes=anchor.classes,
    )
