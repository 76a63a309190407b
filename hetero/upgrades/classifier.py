"""Classification by class prototypes: from embeddings and a head to answers, and which of them are right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hetero.data.imageset import ImageSet
from hetero.models import store
from hetero.models.store import Model
from hetero.retrieval import PerQuery
from hetero_devices.errors import DataError, ModelError

ACCURACY = "accuracy"
"""The name of the success bit of classification, where retrieval has recall@k."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """prototypes: float32 [C, D], unit norm; classes: the name of each."""

    prototypes: Floats
    classes: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, name: str) -> Head:
        """A model's own; ModelError when it has none, or its classes have no names."""
        if model.head is None or not model.classes:
            raise ModelError(
                f"{name} has no class head with names: train it by a classifying term, such as "
                "'margin_softmax', or give a model that has one as its head"
            )
        raw = model.head.numpy().astype(np.float32)
        return cls(raw / np.linalg.norm(raw, axis=1, keepdims=True), model.classes)

    @classmethod
    def load(cls, folder: Path) -> Head:
        """The head of the trained model in `folder`; ModelError as `of`."""
        return cls.of(store.load(folder), str(folder))

    def logits(self, vectors: Floats) -> Floats:
        """Unit float32 [N, D] -> cosines float32 [N, C]; DataError for another dimension."""
        if vectors.shape[1] != self.prototypes.shape[1]:
            raise DataError(
                f"the head is of dimension {self.prototypes.shape[1]}, the embeddings have "
                f"{vectors.shape[1]}: give the head of the model that embedded them"
            )
        cosines: Floats = vectors @ self.prototypes.T
        return cosines


def answers(logits: Floats, classes: tuple[str, ...]) -> list[str]:
    """The name of the class of the largest logit of each row; the first of equal ones."""
    return [classes[place] for place in logits.argmax(axis=1)]


def accuracy(named: list[str], images: ImageSet) -> PerQuery:
    """Whether each image's class was named, a success bit. DataError unless there is one answer an image."""
    if len(named) != len(images):
        raise DataError(f"{len(named)} answers for {len(images)} images")
    truth = [images.class_names[label] for label in images.labels]
    bits = np.array([a == b for a, b in zip(named, truth, strict=True)], np.float64)
    return PerQuery(ACCURACY, images.ids, images.labels, bits)
