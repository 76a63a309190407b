"""How camera bytes become the network's input; lives inside every exported graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from hetero_devices.errors import HeteroError


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """uint8 NHWC RGB of `size` x `size` pixels -> (x - offset) / scale, float32.

    Offset and scale are scalars on purpose: a 3-vector broadcast costs 0.5-1.7 ms in an int8 graph.
    Resizing happens outside the graph: `resize` names the reference implementation
    (`hetero.data.images.resize`, Pillow's antialiased filter of that name on the centre square).
    """

    size: int
    channels: Literal[3] = 3
    offset: float = 127.5
    scale: float = 127.5
    resize: Literal["bilinear"] = "bilinear"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> Preprocessing:
        try:
            return cls(**fields)
        except TypeError as error:
            raise HeteroError(f"preprocessing is not understood: {error}") from None
