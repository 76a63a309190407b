"""Ensembles of classifiers: the paragon of positive-congruent training, and the teachers of ELODI.

Errors that single trainings make by chance average out, so ensembles of both generations flip rarely (PCT,
CVPR 2021; ELODI, TPAMI 2024). Members live in spaces of their own: an ensemble classifies, it does not embed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hetero.data.imageset import ImageSet
from hetero.models.encoder import embed
from hetero.models.store import Model
from hetero.upgrades.classifier import Floats, Head
from hetero_devices.errors import ModelError


class Ensemble:
    """Classifiers of the same classes, which vote by the mean of their cosines."""

    def __init__(self, models: Sequence[Model]) -> None:
        """ModelError unless there are members, all with a head of the same classes."""
        if not models:
            raise ModelError("an ensemble needs at least one model")
        self.heads = [Head.of(model, f"member {i}") for i, model in enumerate(models)]
        self.models = models
        for i, head in enumerate(self.heads):
            if head.classes != self.classes:
                raise ModelError(f"members 0 and {i} name other classes: train them on one data set")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.heads[0].classes

    def logits(self, images: ImageSet) -> Floats:
        """The mean of the members' cosines: float32 [N, C]."""
        pairs = zip(self.models, self.heads, strict=True)
        each = [head.logits(embed(model.encoder, images).vectors) for model, head in pairs]
        mean: Floats = np.stack(each).mean(axis=0)
        return mean
