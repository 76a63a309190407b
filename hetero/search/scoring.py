"""What a candidate is worth: its part of the supernet, scored by cross-model search on validation classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from hetero.config import Config
from hetero.data import QueryGallery
from hetero.models.deploy import Deploy
from hetero.models.encoder import TorchEncoder, embed
from hetero.retrieval import RECALL_AT_1, evaluate
from hetero.search.space import Architecture
from hetero.search.supernet import SuperNet
from hetero_devices.space import Embeddings, Preprocessing


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A candidate on validation classes. q is the candidate, g the anchor, M the search's metric, in [0, 1].

    symmetric: R1 = M(q, q). asymmetric: R2 = M(q, g). agreement: mean cosine of a query's embedding with the
    anchor's own of the same image, a proxy that needs no search.
    """

    symmetric: float
    asymmetric: float
    agreement: float


class RewardConfig(Config):
    """The number a search maximises.

    kind: `symmetric` is R1, what plain architecture search rewards; `asymmetric` R2; `product` R1 x R2,
    called R3 (Duggal et al., CVPR 2021); `weighted` (1 - weight) * R1 + weight * R2; `agreement` the proxy.
    """

    kind: Literal["symmetric", "asymmetric", "product", "weighted", "agreement"] = "product"
    weight: float = Field(default=0.5, ge=0, le=1, description="of the asymmetric score, where weighted")
    metric: str = Field(default=RECALL_AT_1, description="M, as in `hetero matrix`")

    def of(self, scores: Scores) -> float:
        """The reward, higher is better."""
        match self.kind:
            case "symmetric":
                return scores.symmetric
            case "asymmetric":
                return scores.asymmetric
            case "product":
                return scores.symmetric * scores.asymmetric
            case "weighted":
                return (1 - self.weight) * scores.symmetric + self.weight * scores.asymmetric
            case "agreement":
                return scores.agreement


@dataclass(frozen=True)
class Validation:
    """What candidates are scored on.

    sides: query and gallery images of validation classes. anchor_query, anchor_gallery: the anchor's
    embeddings of them. settling: preprocessed training images float32 [N, 3, S, S], for batch statistics.
    """

    sides: QueryGallery
    anchor_query: Embeddings
    anchor_gallery: Embeddings
    settling: Tensor
    preprocessing: Preprocessing

    def limited(self, queries: int | None, seed: int = 0) -> Validation:
        """With a random subset of the queries: a cheaper, noisier score."""
        count = len(self.sides.query)
        if queries is None or queries >= count:
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(count)[:queries])
        sides = QueryGallery(self.sides.query.select(rows), self.sides.gallery, self.sides.description)
        return Validation(
            sides, self.anchor_query.select(rows), self.anchor_gallery, self.settling, self.preprocessing
        )


def score(supernet: SuperNet, architecture: Architecture, validation: Validation, metric: str) -> Scores:
    """Score a candidate with the supernet's weights, its batch statistics computed anew."""
    deploy = Deploy(supernet.extract(architecture), validation.preprocessing)
    settle(deploy.network, validation.settling)
    return score_network(deploy, validation, metric)


def score_network(deploy: Deploy, validation: Validation, metric: str) -> Scores:
    """Score any network of the anchor's dimension."""
    query, gallery = _embedded(deploy, validation)
    return Scores(
        symmetric=_mean(query, gallery, metric),
        asymmetric=_mean(query, validation.anchor_gallery, metric),
        agreement=float((query.vectors * validation.anchor_query.vectors).sum(axis=1).mean()),
    )


def settle(network: nn.Module, pixels: Tensor, block: int = 128) -> None:
    """Batch normalisation's statistics anew, averaged over preprocessed `pixels`, float32 [N, 3, S, S]."""
    with torch.no_grad():
        update_bn(torch.split(pixels, block), network)
    network.eval()


def _embedded(deploy: Deploy, validation: Validation) -> tuple[Embeddings, Embeddings]:
    """Both sides; once where every image is a query and in the gallery."""
    encoder, sides = TorchEncoder(deploy, validation.anchor_gallery.space), validation.sides
    query = embed(encoder, sides.query)
    return query, query if sides.gallery is sides.query else embed(encoder, sides.gallery)


def _mean(query: Embeddings, gallery: Embeddings, metric: str) -> float:
    return evaluate(query, gallery).per_query(metric).mean
