"""From paired embeddings to a link."""

from __future__ import annotations

import numpy as np
import torch

from hetero.upgrades.links.link import Fitted, Link, check_same_images
from hetero.upgrades.links.method import Method, Pairs, Side
from hetero_devices.errors import DataError, SpaceMismatch
from hetero_devices.space import Embeddings, check_same

_FEWEST = 2


def fit_link(
    method: Method,
    source: Embeddings,
    target: Embeddings,
    *,
    side: Side | None = None,
    companion: Embeddings | None = None,
    holdout: float = 0.1,
    seed: int = 0,
) -> Link:
    """A link from the source's space into the target's, fitted on the same training images in both.

    side: the side of a search it will convert (default: the method's usual one). companion: of the same
    images, for the methods that take one (by default the target itself where it lives in that space).
    holdout: share of the pairs, drawn by `seed`, that is kept from the fit: it chooses constants and gives
    `fitted.cosine`. Same pairs and seed: same link. Raises DataError for other images on the two sides or
    too few of them, SpaceMismatch where both are in one space, RecipeError for constants that do not fit.
    """
    side = side or method.sides[0]
    _check(method, source, target, side)
    companion = target if method.companion_is_target and companion is None else companion
    _check_companion(method, source, target, companion)
    held = _held(len(source), holdout, seed)
    pairs = Pairs(
        _tensor(source),
        _tensor(target),
        torch.from_numpy(np.array(source.labels)),
        None if companion is None else _tensor(companion),
        held,
        seed,
    )
    network = method.fit(pairs).eval().requires_grad_(False)
    fitted = Fitted(
        pairs=len(source), held=int(held.sum()), seed=seed, cosine=_cosine(network, pairs.part(held=True))
    )
    space = None if companion is None else companion.space
    return Link(method, side, source.space, target.space, space, network, fitted)


def _check(method: Method, source: Embeddings, target: Embeddings, side: Side) -> None:
    check_same_images(source, target)
    if source.space == target.space:
        raise SpaceMismatch(
            f"source and target are both in space {source.space}: there is nothing to link; "
            "if they are two models of one space, compare them as they are"
        )
    if len(source) < _FEWEST:
        raise DataError(f"{len(source)} pair(s) are too few to fit a link")
    if side not in method.sides:
        raise DataError(
            f"a link of kind {method.kind!r} converts the {method.sides[0]} side, not the {side} side"
        )
    for embeddings in (source, target):
        embeddings.check()


def _check_companion(
    method: Method, source: Embeddings, target: Embeddings, companion: Embeddings | None
) -> None:
    if (companion is None) != (method.companion is None):
        takes = f"needs {method.companion}" if method.companion else "takes no companion vectors"
        raise DataError(f"a link of kind {method.kind!r} {takes}: see 'hetero upgrade link fit --help'")
    if companion is not None:
        if method.companion_is_target:
            check_same(companion.space, target.space, method.companion or "", "the target")
        check_same_images(source, companion)
        companion.check()


def _held(count: int, share: float, seed: int) -> torch.Tensor:
    """bool [N]: which pairs are held back; at least two are always left."""
    if not 0 <= share < 1:
        raise DataError(f"holdout is {share}, expected 0 <= holdout < 1")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = torch.zeros(count, dtype=torch.bool)
    held[order[: min(round(share * count), count - _FEWEST)]] = True
    return held


def _tensor(embeddings: Embeddings) -> torch.Tensor:
    return torch.from_numpy(np.array(embeddings.vectors))


@torch.inference_mode()
def _cosine(network: torch.nn.Module, pairs: Pairs) -> float:
    """Mean cosine of the converted and the true target vectors."""
    inputs = [x for x in (pairs.source, pairs.companion) if x is not None]
    return float(torch.cosine_similarity(network(*inputs), pairs.target).mean())
