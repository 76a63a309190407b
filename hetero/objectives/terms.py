"""Terms: the pure losses together with the state they need, as recipe lines of one weighted sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hetero.config import Config
from hetero.objectives.regression import cosine_regression
from hetero.objectives.softmax import margin_softmax
from hetero_devices.errors import RecipeError


@dataclass(frozen=True)
class Supervision:
    """What a batch offers beside the student's embeddings.

    labels: int64 [N], training classes 0..C-1; targets: unit float32 [N, D], the anchor's embeddings
    of the same views, or None where there is no anchor.
    """

    labels: Tensor
    targets: Tensor | None


@dataclass(frozen=True)
class Given:
    """What is known when an objective is built: the number of training classes and the anchor's offer.

    anchor: whether targets exist; head: the anchor's class prototypes float32 [C, D], or None.
    """

    classes: int
    dim: int
    anchor: bool
    head: Tensor | None


class RegressionConfig(Config):
    """Unit-norm regression to the anchor's embeddings; label-free, works with stored vectors."""

    term: Literal["regression"] = "regression"
    weight: float = Field(default=1.0, gt=0)


class MarginSoftmaxConfig(Config):
    """Classification with an own, trained head: how an anchor, or a student alone, is trained."""

    term: Literal["margin_softmax"] = "margin_softmax"
    weight: float = Field(default=1.0, gt=0)
    scale: float = Field(default=24.0, gt=0)
    margin: float = Field(default=0.2, ge=0, lt=1)


class FrozenHeadConfig(Config):
    """Classification by the anchor's frozen prototypes; needs labels and the anchor's head."""

    term: Literal["frozen_head"] = "frozen_head"
    weight: float = Field(default=1.0, gt=0)
    scale: float = Field(default=24.0, gt=0)
    margin: float = Field(default=0.0, ge=0, lt=1)


TermConfig = Annotated[RegressionConfig | MarginSoftmaxConfig | FrozenHeadConfig, Field(discriminator="term")]


class Regression(nn.Module):
    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        assert supervision.targets is not None  # refused when the objective was built
        return cosine_regression(embeddings, supervision.targets)


class MarginSoftmax(nn.Module):
    def __init__(self, config: MarginSoftmaxConfig, classes: int, dim: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(classes, dim) / dim**0.5)
        self.scale, self.margin = config.scale, config.margin

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        return margin_softmax(embeddings, self.prototypes, supervision.labels, self.scale, self.margin)


class FrozenHead(nn.Module):
    def __init__(self, config: FrozenHeadConfig, head: Tensor) -> None:
        super().__init__()
        self.register_buffer("prototypes", head, persistent=False)
        self.scale, self.margin = config.scale, config.margin

    prototypes: Tensor

    def forward(self, embeddings: Tensor, supervision: Supervision) -> Tensor:
        return margin_softmax(embeddings, self.prototypes, supervision.labels, self.scale, self.margin)


class Objective(nn.Module):
    """The weighted sum of terms; calling it gives each weighted term by name."""

    def __init__(self, configs: Sequence[TermConfig], given: Given) -> None:
        super().__init__()
        self.terms = nn.ModuleDict({f"{i}_{c.term}": _build(c, given) for i, c in enumerate(configs)})
        self.weights = [c.weight for c in configs]

    def forward(self, embeddings: Tensor, supervision: Supervision) -> dict[str, Tensor]:
        return {
            name: weight * term(embeddings, supervision)
            for weight, (name, term) in zip(self.weights, self.terms.items(), strict=True)
        }

    def head(self) -> Tensor | None:
        """The trained class prototypes float32 [C, D], if a term has any."""
        trained = [t.prototypes.detach() for t in self.terms.values() if isinstance(t, MarginSoftmax)]
        return trained[0] if trained else None


def _build(config: TermConfig, given: Given) -> nn.Module:
    match config:
        case RegressionConfig():
            if not given.anchor:
                raise RecipeError("the term 'regression' needs an anchor; this model is trained without one")
            return Regression()
        case MarginSoftmaxConfig():
            return MarginSoftmax(config, given.classes, given.dim)
        case FrozenHeadConfig():
            return FrozenHead(config, _checked_head(given))


def _checked_head(given: Given) -> Tensor:
    if given.head is None:
        raise RecipeError(
            "the term 'frozen_head' needs the anchor's class prototypes, and this anchor has none "
            "(black box): use 'regression'"
        )
    if given.head.shape != (given.classes, given.dim):
        raise RecipeError(
            f"the anchor's head is {list(given.head.shape)}, the data has {given.classes} classes of "
            f"dimension {given.dim}: 'frozen_head' needs the classes the anchor was trained on"
        )
    return given.head
