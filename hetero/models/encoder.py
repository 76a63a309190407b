"""Encoders: one contract for every model that turns images into vectors of a space."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from hetero.data.imageset import ImageSet
from hetero.models.deploy import Deploy
from hetero_devices import runtimes
from hetero_devices.errors import DataError, ModelError
from hetero_devices.space import Embeddings, Preprocessing, Space

Images = npt.NDArray[np.uint8]


class Encoder(Protocol):
    """uint8 [N, S, S, 3] -> float32 [N, D], unit norm, in `space`."""

    @property
    def space(self) -> Space: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    def encode(self, images: Images) -> npt.NDArray[np.float32]: ...


class TorchEncoder:
    """A torch network as an encoder; runs in blocks on the device its weights are on."""

    def __init__(self, deploy: Deploy, space: Space, block: int = 256) -> None:
        self.deploy = deploy.eval()
        self.space = space
        self.block = block

    @property
    def preprocessing(self) -> Preprocessing:
        return self.deploy.preprocessing

    @torch.inference_mode()
    def encode(self, images: Images) -> npt.NDArray[np.float32]:
        check_images(images, self.preprocessing.size)
        device = next(self.deploy.parameters()).device
        vectors = np.empty((len(images), self.space.dim), np.float32)
        for start in range(0, len(images), self.block):
            block = torch.from_numpy(np.array(images[start : start + self.block])).to(device)
            vectors[start : start + self.block] = self.deploy(block).cpu().numpy()
        return vectors


class RuntimeEncoder:
    """An exported model file (ONNX or LiteRT) as an encoder, in this process."""

    def __init__(self, path: Path, space: Space, preprocessing: Preprocessing, threads: int = 1) -> None:
        self.session = runtimes.load(path, threads=threads)
        self.space = space
        self.preprocessing = preprocessing

    def encode(self, images: Images) -> npt.NDArray[np.float32]:
        check_images(images, self.preprocessing.size)
        return self.session.run(np.ascontiguousarray(images))


def check_images(images: npt.NDArray[np.generic], size: int) -> None:
    """Raise DataError unless `images` is uint8 [N, size, size, 3] with N > 0."""
    expected = f"expected uint8 [N, {size}, {size}, 3]"
    if images.dtype != np.uint8:
        nan = bool(np.issubdtype(images.dtype, np.floating)) and bool(np.isnan(images).any())
        raise DataError(
            f"images are {images.dtype}{' with NaN' if nan else ''}, {expected}: pass camera bytes"
        )
    if images.ndim != 4 or images.shape[1:] != (size, size, 3) or len(images) == 0:
        raise DataError(f"images are {list(images.shape)}, {expected}")


def embed(encoder: Encoder, images: ImageSet) -> Embeddings:
    """Encode a whole image set; ids and labels travel along. Raises ModelError on non-finite output."""
    vectors = encoder.encode(images.images)
    if not np.isfinite(vectors).all():
        raise ModelError("the model returns NaN or infinity: its weights or its input are broken")
    return Embeddings(vectors, images.ids, images.labels, encoder.space)
