"""What is deployed: camera bytes in, unit embedding out. Training, scoring and export share this module."""

from __future__ import annotations

from torch import Tensor, nn

from hetero.models.layers import UnitNorm
from hetero_devices.space import Preprocessing


class Deploy(nn.Module):
    """[N, S, S, 3] pixels 0..255 (uint8, or float32 of those values) -> float32 [N, D], unit norm.

    tail: what ends in the unit norm, where that is more than the unit norm alone (`upgrades.links.attach`).
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, tail: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.unit_norm = UnitNorm() if tail is None else tail  # quantisers leave it in float, by this name

    def raw(self, pixels: Tensor) -> Tensor:
        """float32 [N, 3, S, S], 0..255 -> float32 [N, D], not normalised."""
        normalised = (pixels - self.preprocessing.offset) * (1 / self.preprocessing.scale)
        output: Tensor = self.network(normalised).float()
        return output

    def embed(self, pixels: Tensor) -> Tensor:
        """float32 [N, 3, S, S], 0..255 -> float32 [N, D], unit norm."""
        embedding: Tensor = self.unit_norm(self.raw(pixels))
        return embedding

    def forward(self, image: Tensor) -> Tensor:
        return self.embed(image.permute(0, 3, 1, 2).float())
