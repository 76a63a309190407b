"""All terms, and the objective: their weighted sum. To add one, write its file and list it here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, cast, get_args

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from hetero.objectives.basis import BasisConfig
from hetero.objectives.boundary import ElasticBoundaryConfig, LceConfig
from hetero.objectives.congruent import FocalKlConfig, FocalLmConfig, PctNaiveConfig
from hetero.objectives.contrastive import (
    AmlContrastiveConfig,
    AmlTripletConfig,
    CrossSupConConfig,
    InfoNceConfig,
    RactConfig,
)
from hetero.objectives.controls import LogitsConfig, PktConfig, RawMseConfig, RkdConfig
from hetero.objectives.focal import FocalContrastConfig, FocalRegressionConfig
from hetero.objectives.heads import (
    CompositeHeadConfig,
    FrozenHeadConfig,
    SoftHeadConfig,
    SynthesisedHeadConfig,
)
from hetero.objectives.influence import BctConfig
from hetero.objectives.inhibition import ElodiConfig, LdiConfig
from hetero.objectives.maps import UgdConfig
from hetero.objectives.margins import MptConfig
from hetero.objectives.mixing import MixedConfig
from hetero.objectives.neighbours import CsdConfig, D3StillConfig, RamlConfig, RopConfig
from hetero.objectives.prefix import PrefixRegressionConfig, PrefixSoftmaxConfig
from hetero.objectives.quantised import SspConfig
from hetero.objectives.regression import L2RegressionConfig, RegressionConfig
from hetero.objectives.softmax import MarginSoftmaxConfig
from hetero.objectives.stationary import HocConfig, SimplexConfig
from hetero.objectives.task import Given, Need, Reference, Supervision, Task, Term
from hetero_devices.errors import RecipeError

__all__ = [
    "TERMS",
    "FrozenHeadConfig",
    "Given",
    "MarginSoftmaxConfig",
    "Need",
    "Objective",
    "Reference",
    "RegressionConfig",
    "Supervision",
    "TermConfig",
    "name_of",
    "needs_of",
]

AnyTerm = (
    RegressionConfig
    | L2RegressionConfig
    | PrefixRegressionConfig
    | D3StillConfig
    | RamlConfig
    | CsdConfig
    | RopConfig
    | SspConfig
    | UgdConfig
    | InfoNceConfig
    | CrossSupConConfig
    | RactConfig
    | AmlContrastiveConfig
    | AmlTripletConfig
    | FrozenHeadConfig
    | SynthesisedHeadConfig
    | SoftHeadConfig
    | CompositeHeadConfig
    | BctConfig
    | LceConfig
    | ElasticBoundaryConfig
    | MixedConfig
    | HocConfig
    | BasisConfig
    | FocalRegressionConfig
    | FocalContrastConfig
    | MarginSoftmaxConfig
    | PrefixSoftmaxConfig
    | SimplexConfig
    | PctNaiveConfig
    | FocalKlConfig
    | FocalLmConfig
    | LdiConfig
    | ElodiConfig
    | MptConfig
    | RawMseConfig
    | RkdConfig
    | PktConfig
    | LogitsConfig
)
TermConfig = Annotated[AnyTerm, Field(discriminator="term")]

TERMS: tuple[type[Term], ...] = get_args(AnyTerm)
"""Every term: those anchored to a space, those that need no anchor, the controls."""


def name_of(term: type[Term]) -> str:
    """How a recipe calls it."""
    return str(term.model_fields["term"].default)


def needs_of(terms: Iterable[Term]) -> frozenset[Need]:
    """Everything some of the terms need."""
    return frozenset().union(*(term.needs for term in terms))


class Objective(nn.Module):
    """The weighted sum of terms; calling it gives each weighted term by name.

    Towards several old models of one space, a term that looks at an anchor is there once for each of them,
    with the term's weight divided among them; `others` are what is known of all but the first.

    own_dim: the dimension of the embeddings, where it exceeds the anchor's: a term that looks at an anchor
    then sees their first given.dim dimensions, normalised anew, and the other terms see all of them, as in
    the official code of BCT (Shen et al., CVPR 2020).
    """

    def __init__(
        self,
        configs: Sequence[Term],
        given: Given,
        others: Sequence[Given] = (),
        own_dim: int | None = None,
    ) -> None:
        """Raise RecipeError when a term needs what an anchor or the data does not offer, or when no term
        would see the dimensions beside the anchor's."""
        super().__init__()
        self.terms = nn.ModuleDict()
        self.weights: list[float] = []
        self.towards: list[int | None] = []
        own = given if own_dim is None else replace(given, dim=own_dim)
        self.shared_dim = None if own_dim is None else given.dim
        for index, config in enumerate(configs):
            anchored = bool(config.needs - {Need.LABELS, Need.MODELS})
            anchors = [given, *others] if anchored else [own]
            for number, each in enumerate(anchors):
                config.check(each)
                name = f"{index}_{config.term}" + (f"_{number}" if number else "")
                self.terms[name] = config.build(each)
                self.weights.append(config.weight / len(anchors))
                self.towards.append(number if anchored else None)
        if own_dim is not None and None not in self.towards:
            raise RecipeError(
                f"every term sees the anchor's {given.dim} dimensions alone, and those beside them would "
                "learn nothing: add a term without an anchor, such as margin_softmax"
            )

    def forward(self, embeddings: Tensor, supervision: Supervision) -> dict[str, Tensor]:
        shared, of_shared = self._shared(embeddings, supervision)
        tasks = zip(self.weights, self.towards, self.terms.items(), strict=True)
        return {
            name: weight
            * (task(embeddings, supervision) if number is None else task(shared, of_shared.towards(number)))
            for weight, number, (name, task) in tasks
        }

    def _shared(self, embeddings: Tensor, supervision: Supervision) -> tuple[Tensor, Supervision]:
        """What terms that look at an anchor see."""
        dim = self.shared_dim
        if dim is None:
            return embeddings, supervision
        raw = None if supervision.raw is None else supervision.raw[:, :dim]
        return F.normalize(embeddings[:, :dim], dim=1), replace(supervision, raw=raw)

    def head(self) -> Tensor | None:
        """The class prototypes float32 [C, D] of the trained model, if a term has any."""
        heads = [cast(Task, task).head() for task in self.terms.values()]
        return next((head for head in heads if head is not None), None)
