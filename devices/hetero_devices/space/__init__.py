"""Spaces, the embeddings that live in them, and the preprocessing that is part of their identity."""

from hetero_devices.space.embeddings import Embeddings, check_target
from hetero_devices.space.prefix import prefix, prefix_space
from hetero_devices.space.preprocessing import Preprocessing
from hetero_devices.space.space import Space, check_same, space_id

__all__ = [
    "Embeddings",
    "Preprocessing",
    "Space",
    "check_same",
    "check_target",
    "prefix",
    "prefix_space",
    "space_id",
]
