"""Trainings and scorings of `flips.py`: each is a folder or a file, so that a killed benchmark continues."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

import cells
import results
import sharing
from flips_data import CIFAR, archives
from flips_grid import Setting, Terms
from hetero.data.imageset import ImageSet
from hetero.models import store
from hetero.models.encoder import embed
from hetero.models.store import Model
from hetero.objectives.terms import MarginSoftmaxConfig, TermConfig
from hetero.recipes.resolve import resolve
from hetero.retrieval import RECALL_AT_1, PerQuery, evaluate
from hetero.runs import Run
from hetero.runs.sides import Sides, model_sides
from hetero.upgrades.classifier import Floats, Head, accuracy, answers
from hetero.upgrades.ensembles import Ensemble
from hetero.upgrades.interpolation import fisher_diagonal, interpolated, recalibrated

Split = sharing.Split
Bits = dict[str, PerQuery]
"""Success bits by name: what was asked of which side."""

MEMBER = 1000  # seeds of ensemble members: none of those that rows are trained with

COMMON: dict[str, tuple[str, ...]] = {
    "default": (
        "student.fit.batch=64",
        "anchor.fit.batch=64",
        "student.views=2",
        "anchor.fit.precision=fp32",
    ),
    "full": ("student.fit.batch=256", "anchor.fit.batch=256", "student.views=8"),
    "trial": ("student.fit.steps=4", "anchor.fit.steps=4", "student.views=1", "anchor.fit.precision=fp32"),
}
NETWORK = {"default": "elastic-xs", "full": "residual-m", "trial": "elastic-xs"}
STEPS = {"default": {CIFAR: 2500, "omniglot": 1500}, "full": {CIFAR: 40000, "omniglot": 30000}}
OF_DATA = {
    CIFAR: ("data.protocol=leave-one-out", "data.validation_share=0.1"),
    "omniglot": (
        "data.protocol=group=1",
        r"data.group_pattern='_(\d+)\.'",
        "data.validation_share=0.1",
        "data.rotations=false",
    ),
}
_objective: TypeAdapter[tuple[TermConfig, ...]] = TypeAdapter(tuple[TermConfig, ...])


class Bench:
    """One data set's upgrade: the old model, and one run a seed whose anchor it is."""

    def __init__(self, data: str, options: argparse.Namespace) -> None:
        self.data, self.options = data, options
        self.folder = results.WORK / "flips" / f"{data}-{options.scale}"
        self._runs: dict[tuple[str, int], Run] = {}

    @cached_property
    def archives(self) -> tuple[Path, Path]:
        return archives(self.data, Path(self.options.root), self.folder)

    def _recipe(self, seed: int, source: Path, *changes: str) -> list[str]:
        scale, network = self.options.scale, NETWORK[self.options.scale]
        steps = STEPS.get(scale, {}).get(self.data)
        return [
            *(f"{part}.network={network}" for part in ("anchor", "student")),
            *(f"{part}.fit.device={self.options.device}" for part in ("anchor", "student")),
            *([f"{part}.fit.steps={steps}" for part in ("anchor", "student")] if steps else []),
            *COMMON[scale],
            *OF_DATA[self.data],
            f"data.source={source}",
            f"seed={seed}",
            *changes,
        ]

    def _open(self, name: str, seed: int, source: Path, *changes: str) -> Run:
        """One a process and folder, so that images are read once."""
        if (name, seed) not in self._runs:
            recipe = resolve(self.data, self._recipe(seed, source, *changes))
            self._runs[name, seed] = Run.open(self.folder / name / f"seed{seed}", recipe)
        return self._runs[name, seed]

    def old(self, seed: int = 0, objective: str | None = None) -> Path:
        """The folder of an old model, trained alone on the old data; objective: other than by labels."""
        plain = "[{term: margin_softmax, margin: 0.0}]"
        changes = (f"anchor.objective={objective or plain}",)
        run = self._open("old-elodi" if objective else "old", seed, self.archives[0], *changes)
        _ = run.whole_anchor
        return run.folder / "anchor"

    def elodi_old(self) -> Path:
        """The old model of ELODI's own pair: taught by an ensemble of its generation."""
        folders = ", ".join(str(self.old(MEMBER + i)) for i in range(self.options.members))
        return self.old(0, f"[{{term: elodi, references: [{folders}]}}]")

    def run(self, seed: int) -> Run:
        """The run of the new data that holds every new model of one seed."""
        return self._open("new", seed, self.archives[1], f"anchor.source={self.old()}")

    def member(self, index: int) -> Model:
        """A new model trained without regard of the old one, for ensembles."""
        run = self.run(MEMBER + index)
        return run.student_by((MarginSoftmaxConfig(margin=0),), run.recipe.student.fit, "member")

    def tuned(self, seed: int) -> Model:
        """The old model fine-tuned on the new data, which may be interpolated with it."""
        start = (f"anchor.source={self.old()}", f"student.start={self.old() / 'network.safetensors'}")
        term = "student.objective=[{term: margin_softmax, margin: 0.0}]"
        run = self._open("tuned", seed, self.archives[1], *start, term, "student.fit.rate=5e-4")
        return run.student

    def objective(self, terms: Terms) -> tuple[TermConfig, ...]:
        """Terms with the folders of the models they ask: `all` members, or `one`."""
        counts = {"all": self.options.members, "one": 1}
        filled = []
        for term in terms:
            count = counts.get(str(term.get("references")), 0)
            folders = [str(self.run(MEMBER + i).folder / "member") for i in range(count)]
            filled.append({**term, **({"references": folders} if count else {})})
        return _objective.validate_python(filled)

    def trained(self, setting: Setting, seed: int, split: Split) -> Model:
        """For validation images after a part of the steps, for test images after all of them."""
        run = self.run(seed)
        fit = sharing.fit(run, split)
        return run.student_by(self.objective(setting.terms), fit, f"{setting.digest}-{split}")

    def kept(self, name: str, compute: Callable[[], Bits]) -> Bits:
        """Bits that are on disk, or are computed and put there."""
        path = self.folder / "cells" / f"{name}.npz"
        return dict(cells.kept(path, lambda: list(compute().items())))

    def images(self, split: Split) -> ImageSet:
        """Of the new data; the same for every seed."""
        return getattr(self.run(0).splits, split)  # type: ignore[no-any-return]

    # Classification

    def classified(self, setting: Setting, seed: int, split: Split) -> Bits:
        """Accuracy of a method's model, image by image."""
        name = f"{setting.digest}-{split}-{seed}"
        return self.kept(name, lambda: self._accuracy(self.trained(setting, seed, split), split))

    def old_answers(self, split: Split, folder: Path, name: str) -> Bits:
        return self.kept(f"{name}-{split}", lambda: self._accuracy(store.load(folder), split))

    def ensemble(self, split: Split) -> Bits:
        def compute() -> Bits:
            members = Ensemble([self.member(i) for i in range(self.options.members)])
            return self._bits(members.logits(self.images(split)), members.classes, split)

        return self.kept(f"ensemble-{split}", compute)

    def interpolation(self, seed: int, share: float, split: Split, fisher: bool) -> Bits:
        """The fine-tuned model with a share of the old weights, its batch normalisation measured anew."""

        def compute() -> Bits:
            old, train = store.load(self.old()), self.run(0).splits.train
            rows = np.linspace(0, len(train) - 1, min(len(train), 2000)).astype(np.int64)
            information = None
            if fisher:
                seen = self._open("old", 0, self.archives[0]).splits.train
                few = np.linspace(0, len(seen) - 1, min(len(seen), 300)).astype(np.int64)
                information = fisher_diagonal(old, seen.select(few))
            middle = interpolated(old, [self.tuned(seed)], share, information)
            return self._accuracy(recalibrated(middle, train.select(rows)), split)

        return self.kept(f"{'fisher' if fisher else 'bcwi'}-{share}-{split}-{seed}", compute)

    def _accuracy(self, model: Model, split: Split) -> Bits:
        head = Head.of(model, "the model")
        return self._bits(head.logits(embed(model.encoder, self.images(split)).vectors), head.classes, split)

    def _bits(self, logits: Floats, classes: tuple[str, ...], split: Split) -> Bits:
        return {"accuracy": accuracy(answers(logits, classes), self.images(split))}

    # Retrieval

    def searched(self, setting: Setting | None, seed: int, split: Split) -> Bits:
        """New queries in the old and in the new gallery; None: the model trained alone, in its own."""

        def compute() -> Bits:
            model = self.trained(setting, seed, split) if setting else self.run(seed).alone
            new = self._sides(model, split)
            own = {"new/new": _recall(new, new)}
            if setting is None:
                return own
            return own | {"new/old": _recall(new, self._sides(store.load(self.old()), split))}

        return self.kept(f"{setting.digest if setting else 'alone'}-{split}-{seed}", compute)

    def old_search(self, split: Split) -> Bits:
        def compute() -> Bits:
            old = self._sides(store.load(self.old()), split)
            return {"old/old": _recall(old, old)}

        return self.kept(f"old-{split}", compute)

    def _sides(self, model: Model, split: Split) -> Sides:
        return model_sides(model, sharing.images(self.run(0), split))


def _recall(asking: Sides, searched: Sides) -> PerQuery:
    return evaluate(asking.query, searched.gallery).per_query(RECALL_AT_1)
