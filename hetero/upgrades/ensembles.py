"""Ensembles: the paragon of positive-congruent training, and the teachers of ELODI.

Errors that single trainings make by chance average out, so ensembles of both generations flip rarely (PCT,
CVPR 2021; ELODI, TPAMI 2024). Members live in spaces of their own. Their embeddings side by side, divided by
the square root of their number, are of unit length, and inner products there are the means of the members'
cosines: so an ensemble is an encoder like any other, in a space of its own, at the cost of all its members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hetero.data.imageset import ImageSet
from hetero.models.encoder import Encoder, Images, embed
from hetero.models.store import Model
from hetero.upgrades.classifier import Floats, Head
from hetero_devices.errors import ModelError
from hetero_devices.space import Preprocessing, Space


class EnsembleEncoder:
    """uint8 [N, S, S, 3] -> the members' embeddings side by side, float32 [N, sum of D], unit norm."""

    def __init__(self, members: Sequence[Encoder]) -> None:
        """ModelError unless there are members, all of which take the same images."""
        if not members:
            raise ModelError("an ensemble needs at least one model")
        self.members = tuple(members)
        for i, member in enumerate(members):
            if member.preprocessing != self.preprocessing:
                raise ModelError(
                    f"members 0 and {i} take images of another size or scale: use models of one kind"
                )

    @property
    def preprocessing(self) -> Preprocessing:
        return self.members[0].preprocessing

    @property
    def space(self) -> Space:
        """The space of this list of members."""
        named = "+".join(str(member.space) for member in self.members)
        dim = sum(member.space.dim for member in self.members)
        return Space(hashlib.sha256(f"ensemble {named}".encode()).hexdigest()[:16], dim)

    def encode(self, images: Images) -> npt.NDArray[np.float32]:
        return side_by_side([member.encode(images) for member in self.members])


class Ensemble:
    """Classifiers of the same classes, which vote by the mean of their cosines."""

    def __init__(self, models: Sequence[Model]) -> None:
        """ModelError unless there are members, all with a head of the same classes."""
        self.encoder = EnsembleEncoder([model.encoder for model in models])
        self.head = joined([Head.of(model, f"member {i}") for i, model in enumerate(models)])

    @property
    def classes(self) -> tuple[str, ...]:
        return self.head.classes

    def logits(self, images: ImageSet) -> Floats:
        """The mean of the members' cosines: float32 [N, C]."""
        return self.head.logits(embed(self.encoder, images).vectors)


def joined(heads: Sequence[Head]) -> Head:
    """The head of an ensemble: the members' prototypes side by side; ModelError for other classes."""
    for i, head in enumerate(heads):
        if head.classes != heads[0].classes:
            raise ModelError(f"members 0 and {i} name other classes: train them on one data set")
    return Head(side_by_side([head.prototypes for head in heads]), heads[0].classes)


def side_by_side(vectors: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """K unit float32 [N, D_k] -> unit [N, sum of D_k]; inner products there are the means of theirs."""
    together: npt.NDArray[np.float32] = np.concatenate(vectors, axis=1) / np.float32(np.sqrt(len(vectors)))
    return together
