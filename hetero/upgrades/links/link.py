"""A link: a fitted map from one space into another, which knows where it starts, ends, and on which side.

On disk a link is one safetensors file: the weights, and a JSON description in its metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from hetero.config import Config
from hetero.models.store import weights_digest
from hetero.tensors import load_tensors, save_tensors
from hetero.upgrades.links.method import Dims, Method, Side
from hetero.upgrades.links.methods import LinkMethod
from hetero_devices.errors import DataError, HeteroError, ModelError, SpaceMismatch
from hetero_devices.space import Embeddings, Space

__all__ = ["Link", "Side"]

_KEY = "hetero.link"
_VERSION = 1
_BLOCK = 16_384  # vectors converted at once
_SHORTEST = 1e-6  # a mapped vector without a direction cannot be searched with


class Fitted(Config):
    """How a link was fitted. cosine: mean of converted and true target vectors, on the pairs held back."""

    pairs: int
    held: int
    seed: int
    cosine: float


class _Description(Config):
    version: int
    method: LinkMethod
    side: Side
    source: dict[str, Any]
    target: dict[str, Any]
    companion: dict[str, Any] | None
    fitted: Fitted
    weights_sha256: str


_method: TypeAdapter[Method] = TypeAdapter(LinkMethod)


@dataclass(frozen=True)
class Link:
    """Converts embeddings of `source` into `target`, on one side of a search.

    side: which side of a search it was made to convert; companion: the space of the third vectors that the
    method takes of every image, or None; network: the fitted map, unit float32 [N, source.dim] (, companion)
    -> float32 [N, target.dim], not normalised.
    """

    method: Method
    side: Side
    source: Space
    target: Space
    companion: Space | None
    network: nn.Module
    fitted: Fitted

    def __call__(
        self, embeddings: Embeddings, companion: Embeddings | None = None, *, side: Side | None = None
    ) -> Embeddings:
        """The same images in the target space: float32 [N, target.dim], unit norm.

        companion: of the same images in the same order, for the methods that take one. side: the side the
        result will stand on, refused unless it is the link's. Raises SpaceMismatch naming both spaces when
        the embeddings, or the companions, are in another space, the link's target included; DataError for
        unusable vectors or a missing companion.
        """
        if side is not None and side != self.side:
            raise SpaceMismatch(
                f"{self} converts the {self.side} side, not the {side} side: fit another link"
            )
        self._check(embeddings.space)
        extra = self._companion(embeddings, companion)
        embeddings.check()
        vectors = np.empty((len(embeddings), self.target.dim), np.float32)
        for rows in _blocks(len(embeddings)):
            vectors[rows] = self._convert(embeddings.vectors[rows], None if extra is None else extra[rows])
        return Embeddings(vectors, embeddings.ids, embeddings.labels, self.target)

    def __str__(self) -> str:
        return f"the {self.method.kind} link from space {self.source} to space {self.target}"

    def _check(self, space: Space) -> None:
        if space == self.source:
            return
        if space == self.target:
            raise SpaceMismatch(
                f"{self} is used the wrong way round: these embeddings are in space {space} already"
            )
        raise SpaceMismatch(
            f"{self} takes embeddings of space {self.source}, these are in space {space}: "
            "fit a link between the spaces you have"
        )

    def _companion(
        self, embeddings: Embeddings, companion: Embeddings | None
    ) -> npt.NDArray[np.float32] | None:
        if self.companion is None:
            if companion is not None:
                raise DataError(f"{self} takes no companion vectors: leave them out")
            return None
        if companion is None:
            raise DataError(f"{self} also needs {self.method.companion}, of space {self.companion}")
        if companion.space != self.companion:
            raise SpaceMismatch(
                f"{self} needs {self.method.companion} in space {self.companion}, "
                f"these are in space {companion.space}"
            )
        check_same_images(embeddings, companion)
        companion.check()
        return companion.vectors

    @torch.inference_mode()
    def _convert(
        self, vectors: npt.NDArray[np.float32], companion: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32]:
        inputs = [torch.from_numpy(np.array(x)) for x in (vectors, companion) if x is not None]
        mapped = self.network(*inputs)
        lengths = mapped.norm(dim=1, keepdim=True)
        if not bool((lengths > _SHORTEST).all() and lengths.isfinite().all()):
            raise DataError(f"{self} maps a vector to no direction at all: fit it on more, or other, pairs")
        unit: npt.NDArray[np.float32] = (mapped / lengths).numpy()
        return unit

    @property
    def digest(self) -> str:
        """16 hex digits over method, spaces, side and weights: which link a bundle was made with."""
        fields = json.dumps(self._description(), sort_keys=True)
        return hashlib.sha256(fields.encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the link as one file, whole or not at all."""
        metadata = {_KEY: json.dumps(self._description(), sort_keys=True)}
        save_tensors(path, self.network.state_dict(), metadata)

    def _description(self) -> dict[str, Any]:
        return _Description(
            version=_VERSION,
            method=self.method,  # type: ignore[arg-type]  # one of the union, which mypy cannot see
            side=self.side,
            source=self.source.to_json(),
            target=self.target.to_json(),
            companion=self.companion.to_json() if self.companion else None,
            fitted=self.fitted,
            weights_sha256=weights_digest(self.network).hex(),
        ).model_dump(mode="json")

    @classmethod
    def load(cls, path: Path) -> Link:
        """Open a file written by `save`; ModelError in one line for anything else, or changed weights."""
        if not path.is_file():
            raise ModelError(f"no link at {path}: fit one with 'hetero upgrade link fit'")
        tensors, metadata = load_tensors(path)
        if _KEY not in metadata:
            raise ModelError(
                f"{path} holds weights, but is not a link: fit one with 'hetero upgrade link fit'"
            )
        try:
            found = _Description.model_validate_json(metadata[_KEY])
            source, target = Space.from_json(found.source), Space.from_json(found.target)
            companion = Space.from_json(found.companion) if found.companion else None
            network = found.method.build(Dims(source.dim, target.dim, companion.dim if companion else 0))
            network.load_state_dict(tensors)
        except (ValidationError, HeteroError, RuntimeError) as error:
            raise ModelError(f"{path} is not a link of this version: {_first(error)}") from None
        if found.version != _VERSION or weights_digest(network).hex() != found.weights_sha256:
            raise ModelError(f"{path} is damaged or of another version: fit it again")
        if found.side not in found.method.sides or (companion is None) != (found.method.companion is None):
            raise ModelError(
                f"{path} is not a link of this version: {found.method.kind} on its {found.side} side"
            )
        network.eval().requires_grad_(False)
        return cls(found.method, found.side, source, target, companion, network, found.fitted)


def check_same_images(a: Embeddings, b: Embeddings) -> None:
    """Raise DataError unless both embed one list of images, in one order."""
    if not (np.array_equal(a.ids, b.ids) and np.array_equal(a.labels, b.labels)):
        raise DataError(
            f"{len(a)} and {len(b)} embeddings are not of the same images in the same order: "
            "embed one list with both models"
        )


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _BLOCK):
        yield slice(start, start + _BLOCK)


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
