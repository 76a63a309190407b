"""What a term is: a recipe line that says what it needs, and the task that computes its loss."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.config import Config
from hetero.retrieval.ranking import search
from hetero_devices.errors import RecipeError
from hetero_devices.space import Embeddings, Space


class Need(StrEnum):
    """What a term may ask for beside the student's own output."""

    LABELS = "labels"  # the class of every training image
    VECTORS = (
        "vectors"  # the anchor's embeddings of the training images; any anchor has them, a black box too
    )
    HEAD = "head"  # the anchor's class prototypes
    MAPS = "maps"  # the anchor's feature maps
    MODELS = "models"  # other trained models, whose folders the term itself names


@dataclass(frozen=True)
class Supervision:
    """What a batch offers beside the student's embeddings.

    labels: int64 [N], training classes 0..C-1; targets: unit float32 [N, D], the anchor's embeddings
    of the same views, or None where there is no anchor; items: int64 [N], which training items these are;
    raw: float32 [N, D], the student's output before it was normalised; pixels: float32 [N, 3, S, S], 0..255,
    the views themselves, for terms that ask further models; others: unit float32 [N, D] each, the embeddings
    of the same views by further old models of the anchor's space.
    """

    labels: Tensor
    targets: Tensor | None
    items: Tensor | None = None
    raw: Tensor | None = None
    pixels: Tensor | None = None
    others: tuple[Tensor, ...] = ()

    def towards(self, number: int) -> Supervision:
        """What is seen of one of several old models: the first, or one of the others."""
        return replace(self, targets=self.others[number - 1]) if number else self

    @property
    def anchor(self) -> Tensor:
        """The targets of a term that needs vectors: unit float32 [N, D]."""
        assert self.targets is not None  # refused when the objective was built
        return self.targets

    def to(self, device: str) -> Supervision:
        """The same on a torch device."""
        optional = (self.targets, self.items, self.raw, self.pixels)
        targets, items, raw, pixels = (t if t is None else t.to(device) for t in optional)
        others = tuple(t.to(device) for t in self.others)
        return Supervision(self.labels.to(device), targets, items, raw, pixels, others)


@dataclass(frozen=True)
class Reference:
    """The anchor's embeddings of all training items, unaugmented.

    vectors: unit float32 [M, D]; labels: int64 [M], training classes 0..C-1. Row i is item i.
    """

    vectors: Tensor
    labels: Tensor

    def sample(self, count: int, seed: int) -> Tensor:
        """float32 [min(count, M), D]: rows drawn without replacement."""
        order = torch.randperm(len(self.vectors), generator=torch.Generator().manual_seed(seed))
        return self.vectors[order[:count]]

    def centres(self, classes: int) -> Tensor:
        """float32 [classes, D], unit norm: the mean vector of every class."""
        return class_centres(self.vectors, self.labels, classes)

    def answered(self) -> Tensor:
        """bool [M]: whether the anchor finds another image of the class first, among all training items.

        That is Recall@1, leave-one-out: what the old system answers right on the images it is upgraded with.
        """
        rows = np.arange(len(self.vectors), dtype=np.int64)
        labels = self.labels.numpy()
        known = Embeddings(self.vectors.numpy(), rows, labels, Space("0" * 16, self.vectors.shape[1]))
        first = search(known, known, 1).rows[:, 0]
        return torch.from_numpy((labels[first] == labels) & (first >= 0))


@dataclass(frozen=True)
class Given:
    """What is known when an objective is built.

    classes: of the training data; dim: of the space, which is that of the student's embeddings;
    anchor: whether targets exist; head: the anchor's class prototypes float32 [C, D], or None;
    reference: gives the anchor's vectors of all training items (asked only by terms that use them);
    seed: of everything a term draws when it is built; head_classes: int64 [C], which training class each
    of the anchor's prototypes stands for, -1 for none of them; None where the classes have no names.
    """

    classes: int
    dim: int
    anchor: bool
    head: Tensor | None
    reference: Callable[[], Reference] | None = None
    seed: int = 0
    head_classes: Tensor | None = None

    @property
    def seen(self) -> Tensor:
        """int64 [S]: `head_classes`; without names the anchor's classes are taken to be the first ones.

        RecipeError where the anchor then has more classes than the data.
        """
        assert self.head is not None  # refused when the objective was built
        if self.head_classes is not None:
            return self.head_classes
        if len(self.head) > self.classes:
            raise RecipeError(
                f"the anchor's head has {len(self.head)} classes without names, the data has {self.classes}: "
                "train the anchor with this version of hetero, which stores their names"
            )
        return torch.arange(len(self.head))

    @property
    def offers(self) -> frozenset[Need]:
        """What a term may ask for here. Feature maps are not offered by any kind of anchor yet."""
        known = {
            Need.LABELS: self.classes > 1,
            Need.VECTORS: self.anchor,
            Need.HEAD: self.anchor and self.head is not None,
        }
        return frozenset(need for need, there in known.items() if there)

    def anchors(self) -> Reference:
        """The anchor's vectors of all training items."""
        assert self.reference is not None  # there is one wherever vectors are offered
        return self.reference()

    def head_of(self, term: str) -> Tensor:
        """The anchor's prototypes float32 [C, D]; RecipeError unless they are of these classes."""
        assert self.head is not None  # refused when the objective was built
        if self.head.shape != (self.classes, self.dim):
            raise RecipeError(
                f"the anchor's head is {list(self.head.shape)}, the data has {self.classes} classes of "
                f"dimension {self.dim}: {term!r} needs the classes the anchor was trained on; "
                "'synthesised_head' does not"
            )
        return self.head


class Task(nn.Module):
    """A loss with whatever state it has: unit float32 [N, D] and a batch's supervision -> scalar."""

    @abstractmethod
    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor: ...

    def head(self) -> Tensor | None:
        """The class prototypes float32 [C, D] that a model trained by this task carries, if any."""
        return None


class Pure(Task):
    """A task without state."""

    def __init__(self, loss: Callable[[Tensor, Supervision], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        return self.loss(embeddings, supervision)


class Term(Config):
    """A line of an objective. A new term is a subclass in its own file, listed in `terms.py`.

    needs: what must be there; source: where it was published; control: it is in the library to show what
    does not work, and is expected to lose; own_space: it classifies and does not lead into the anchor's
    space, so a model trained by such terms alone is in a space of its own.
    """

    needs: ClassVar[frozenset[Need]]
    source: ClassVar[str]
    control: ClassVar[bool] = False
    own_space: ClassVar[bool] = False

    term: str
    weight: float = Field(default=1.0, gt=0)

    @abstractmethod
    def build(self, given: Given) -> Task:
        """The task of this line; everything in `needs` is there."""

    @property
    def brings(self) -> frozenset[Need]:
        """What this line names itself, so that nobody else need offer it."""
        return frozenset()

    def check(self, given: Given) -> None:
        """Raise RecipeError, in one line, when something this term needs is not offered."""
        missing = [need for need in Need if need in self.needs - self.brings - given.offers]
        if missing:
            raise RecipeError(f"the term {self.term!r} needs {_explained(missing[0], given)}")


def _explained(need: Need, given: Given) -> str:
    if need is Need.LABELS:
        return "labels, and this data has fewer than two classes: use a label-free term"
    if need is Need.MODELS:
        return "other trained models: name their folders in its 'references'"
    if not given.anchor:
        return "an anchor; this model is trained without one"
    if need is Need.HEAD:
        return (
            "the anchor's class prototypes, and this anchor has none (black box): "
            "use 'regression', or 'synthesised_head' where there are labels"
        )
    return "the anchor's feature maps, which this anchor does not offer: use 'd3still', it needs only vectors"


def class_centres(vectors: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Unit [M, D], int64 [M] -> unit [classes, D]: the normalised mean of every class."""
    sums = vectors.new_zeros(classes, vectors.shape[1]).index_add_(0, labels, vectors)
    return F.normalize(sums, dim=1)
