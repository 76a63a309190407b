"""What is adapted: an embedding network with a linear head for the new classes."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from hetero.data.imageset import ImageSet
from hetero.models.deploy import Deploy
from hetero.progress import track


class Classifier(nn.Module):
    """float32 [N, 3, S, S] pixels 0..255 -> logits float32 [N, C]: a linear head on the unit embedding.

    The head sees sqrt(D) times the unit vector: entries of about unit size, as inside a network.
    """

    def __init__(self, deploy: Deploy, classes: int) -> None:
        super().__init__()
        self.deploy = copy.deepcopy(deploy)
        dim = dimension(deploy)
        self.head = nn.Linear(dim, classes)
        self.scale = dim**0.5

    def features(self, pixels: Tensor) -> Tensor:
        """What the head sees: float32 [N, D], of norm sqrt(D)."""
        scaled: Tensor = self.deploy.embed(pixels) * self.scale
        return scaled

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(pixels))
        return logits


def dimension(deploy: Deploy) -> int:
    """D of the embedding, asked of the network itself."""
    side = deploy.preprocessing.size
    with torch.no_grad():
        return int(deploy.eval().embed(torch.zeros(1, 3, side, side)).shape[1])


def pixels_of(images: ImageSet) -> Tensor:
    """uint8 [N, 3, S, S] in memory; a few shots fit."""
    return torch.from_numpy(np.array(images.images)).permute(0, 3, 1, 2).contiguous()


def outputs(network: nn.Module, pixels: Tensor, block: int = 256) -> Tensor:
    """What `network` returns for uint8 [N, 3, S, S], in evaluation mode: float32 [N, K]."""
    network.eval()
    starts = track(range(0, len(pixels), block), "evaluate")
    with torch.no_grad():
        return torch.cat([network(pixels[start : start + block].float()) for start in starts])
