"""Further trained classifiers a term asks in the loop: ensembles, and a new model trained independently."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from hetero.models import store
from hetero.models.store import Model
from hetero.objectives.congruent import ClassifierTerm
from hetero.objectives.task import Given, Need, Supervision
from hetero_devices.errors import RecipeError


class ReferenceTerm(ClassifierTerm):
    """A classification that learns from further models, given by their folders."""

    references: tuple[str, ...] = Field(default=(), description="folders of classifiers of the same classes")

    @property
    def brings(self) -> frozenset[Need]:
        return frozenset({Need.MODELS}) if self.references else frozenset()


class References:
    """Frozen classifiers; no module, so that they are neither trained nor saved with the objective."""

    def __init__(self, config: ReferenceTerm, given: Given) -> None:
        self.scale = config.scale
        self.models = [
            _classifier(config.term, Path(folder).expanduser(), given) for folder in config.references
        ]

    @torch.no_grad()
    def logits(self, supervision: Supervision) -> Tensor:
        """The mean of their logits on the batch's views: float32 [N, C]."""
        assert supervision.pixels is not None  # the loop gives them
        pixels = supervision.pixels
        return torch.stack([self._of(model, pixels) for model in self.models]).mean(0)

    def _of(self, model: Model, pixels: Tensor) -> Tensor:
        deploy = model.deploy.to(pixels.device).eval()
        size = deploy.preprocessing.size
        if pixels.shape[-1] != size:
            raise RecipeError(f"a reference takes {size}-pixel images, the training has {pixels.shape[-1]}")
        assert model.head is not None
        head = F.normalize(model.head, dim=1).to(pixels.device)
        return self.scale * deploy.embed(pixels) @ head.T


def _classifier(term: str, folder: Path, given: Given) -> Model:
    """The model in `folder`; RecipeError unless it classifies as many classes as there are in training."""
    model = store.load(folder)
    if model.head is None or len(model.head) != given.classes:
        classes = 0 if model.head is None else len(model.head)
        raise RecipeError(
            f"reference {folder} of {term!r} classifies {classes} classes, the data has {given.classes}: "
            "train it by 'margin_softmax' on the same data"
        )
    return model
