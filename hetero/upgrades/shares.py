"""How much of the old weights an update keeps: the share that breaks least at no cost of accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hetero.data.imageset import ImageSet
from hetero.data.load import load
from hetero.models import store
from hetero.models.encoder import embed
from hetero.models.store import Model
from hetero.progress import track
from hetero.retrieval import PerQuery, negative_flip_bits
from hetero.upgrades.classifier import Head, accuracy, answers
from hetero.upgrades.interpolation import Tensors, fisher_diagonal, interpolated, recalibrated
from hetero.upgrades.pictures import Split
from hetero_devices.errors import DataError

SHARES = tuple(i / 10 for i in range(10))
TOLERATED = 0.005
"""Of error, above that of the new model as it is."""

_SEEN, _FISHER = 2000, 300  # images for batch statistics, and for Fisher information


@dataclass(frozen=True)
class Generations:
    """What is interpolated: an old classifier and those fine-tuned from it; seen: training images.

    fisher: the old model's information, or None where all weights count alike.
    """

    old: Model
    new: Sequence[Model]
    seen: ImageSet
    fisher: Tensors | None = None

    @classmethod
    def open(
        cls, old: Path, new: Sequence[Path], source: str, *, fisher: bool = False, root: Path | None = None
    ) -> Generations:
        """Models from their folders, training images from a data set. Raises ModelError and DataError.

        Fisher information is measured on those images whose classes the old model knows.
        """
        models = [store.load(folder) for folder in (old, *new)]
        first = models[0]
        train = load(source, size=first.deploy.preprocessing.size, root=root).train
        known = np.array([name in first.classes for name in train.class_names])[train.labels]
        if fisher and not known.any():
            raise DataError(f"{source} has no class that {old} knows: Fisher information needs some")
        few = train.select(_spread(np.flatnonzero(known), _FISHER)) if fisher else None
        information = fisher_diagonal(first, few) if few is not None else None
        return cls(first, models[1:], train.select(_spread(np.arange(len(train)), _SEEN)), information)

    def mixed(self, share: float) -> Model:
        """The model at `share` of the old weights, its batch normalisation measured anew."""
        return recalibrated(interpolated(self.old, self.new, share, self.fisher), self.seen)


@dataclass(frozen=True)
class Trial:
    """One share of the old weights, 0..1: its error and the negative flips from the old model to it."""

    share: float
    error: float
    nfr: float


def fewest_flips(trials: Sequence[tuple[float, float]], baseline: float, tolerated: float = TOLERATED) -> int:
    """The index of the (error, NFR) with the fewest flips among errors up to baseline + tolerated.

    Where there is none, the one of the smallest error.
    """
    good = [i for i, (error, _) in enumerate(trials) if error <= baseline + tolerated]
    return min(good, key=lambda i: trials[i][1]) if good else int(np.argmin([error for error, _ in trials]))


def tried(generations: Generations, unseen: ImageSet, shares: Sequence[float] = SHARES) -> tuple[Trial, ...]:
    """Every share, the new model alone (0) first, scored on labelled images that no model was trained on.

    DataError unless the old model is right on some of these images.
    """
    before = _right(generations.old, unseen, "the old model")
    if not before.values.any():
        raise DataError("the old model is right on none of these images, so none can flip: give others")
    found = []
    for share in track(sorted({0.0, *shares}), "shares of the old weights"):
        after = _right(generations.mixed(share), unseen, "the new model")
        found.append(Trial(share, 1 - after.mean, negative_flip_bits(before, after).mean))
    return tuple(found)


def chosen(trials: Sequence[Trial], tolerated: float = TOLERATED) -> Trial:
    """The trial of fewest flips whose error exceeds that of the new model alone by `tolerated` at most."""
    baseline = next(trial.error for trial in trials if trial.share == 0)
    return trials[fewest_flips([(trial.error, trial.nfr) for trial in trials], baseline, tolerated)]


def unseen_images(generations: Generations, source: str, split: Split, root: Path | None = None) -> ImageSet:
    """A split of a data set, at the size that the models take."""
    found: ImageSet = getattr(load(source, size=generations.old.deploy.preprocessing.size, root=root), split)
    if not len(found):
        raise DataError(f"the {split} split of {source} is empty: name another split")
    return found


def _spread(rows: np.ndarray[Any, np.dtype[np.int64]], count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """At most so many of the rows, evenly spread."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), count)).astype(np.int64)]


def _right(model: Model, images: ImageSet, name: str) -> PerQuery:
    head = Head.of(model, name)
    return accuracy(answers(head.logits(embed(model.encoder, images).vectors), head.classes), images)
