"""Networks and adaptations of `lqf.py`: each is a folder, so that a killed benchmark continues."""

from __future__ import annotations

import argparse
from functools import cached_property
from pathlib import Path

import results
import sharing
from hetero.linear.adaptation import Adaptation, Outcome
from hetero.linear.config import FinetuneConfig
from hetero.linear.methods import METHODS
from hetero.linear.source import Source, open_source
from hetero.linear.task import Shots
from hetero.models import store
from hetero.recipes.resolve import changed, resolve
from hetero.runs import Run
from hetero_devices.errors import DataError

OMNIGLOT, CIFAR, CALTECH = "omniglot", "cifar100", "caltech101"
SMALL = "{kind: residual, widths: [16, 32, 64], depths: [1, 1, 1], stem_stride: 2, dim: 64}"

PRETRAINING: dict[str, dict[str, tuple[str, ...]]] = {
    "default": {
        OMNIGLOT: ("data.train_classes=400", "anchor.fit.steps=1500"),
        CIFAR: ("anchor.fit.steps=4000",),
        CALTECH: ("data.size=48", "anchor.fit.steps=1500"),
    },
    "full": {
        OMNIGLOT: ("anchor.fit.steps=10000",),
        CIFAR: ("anchor.fit.steps=40000",),
        CALTECH: ("data.size=64", "anchor.fit.steps=10000"),
    },
    "trial": {
        OMNIGLOT: ("data.train_classes=20", "data.rotations=false", "anchor.fit.steps=4"),
        CIFAR: ("anchor.fit.steps=4",),
        CALTECH: ("data.size=32", "anchor.fit.steps=4"),
    },
}
"""What the networks are trained on before: other classes of the same data set."""

NETWORK = {"default": SMALL, "full": "residual-l", "trial": SMALL}

TASK: dict[str, tuple[str, ...]] = {
    OMNIGLOT: ("task.source=omniglot", "task.validation=4"),
    CIFAR: ("task.source=cifar100-closed", "task.validation=20"),
    CALTECH: ("task.source=caltech101", "task.validation=8"),
}
LESSON: dict[str, tuple[str, ...]] = {
    "default": ("lesson.epochs=15", "conversion.steps=300"),
    "full": ("lesson.epochs=50", "conversion.steps=2000"),
    "trial": ("lesson.epochs=2", "conversion.steps=4"),
}
CLASSES: dict[str, dict[str, int]] = {
    "default": {OMNIGLOT: 120, CIFAR: 20, CALTECH: 20},
    "full": {},
    "trial": {OMNIGLOT: 4, CIFAR: 4, CALTECH: 4},
}
"""New classes; all where nothing is said."""


class Bench:
    """One data set: its two pre-trained networks, and adaptations by shots, seed, method and rate."""

    def __init__(self, data: str, options: argparse.Namespace) -> None:
        self.data, self.options = data, options
        self.folder = results.WORK / "lqf" / f"{data}-{options.scale}"
        self._adaptations: dict[tuple[Shots, int, str, float | None], Adaptation] = {}

    @cached_property
    def source(self) -> Source:
        """The ReLU network and the one converted from it, trained where they are missing."""
        found = open_source(str(self._pretrained()))
        leaky = found.leaky(self.config("all", 0).conversion, self.folder / "leaky", 0)
        return Source(found.model, found.run, leaky)

    def _pretrained(self) -> Path:
        scale, folder = self.options.scale, self.folder / "pretrained"
        recipe = resolve(
            self.data,
            [
                f"anchor.network={NETWORK[scale]}",
                "anchor.fit.batch=64",
                "anchor.fit.precision=fp32",
                "data.validation_share=0.1",
                *PRETRAINING[scale][self.data],
                *sharing.given(self.options, ["anchor"]),
            ],
        )
        run = Run.open(folder, recipe)
        _ = run.whole_anchor
        return folder / "anchor"

    def config(self, shots: Shots, seed: int, rates: tuple[float, ...] | None = None) -> FinetuneConfig:
        scale = self.options.scale
        classes = self.options.classes or CLASSES[scale].get(self.data)
        pairs = [*TASK[self.data], *LESSON[scale], f"task.shots={shots}", f"seed={seed}"]
        pairs += [f"task.root={self.options.root}"] if self.options.root else []
        pairs += [f"task.classes={classes}"] if classes else []
        config = changed(FinetuneConfig(), pairs)
        return config.model_copy(update={"rates": rates})

    def possible(self, shots: Shots) -> bool:
        """Whether the data set has so many training images of every class."""
        try:
            _ = self.adaptation("head", shots, 0).task
        except DataError:
            return False
        return True

    def adaptation(self, name: str, shots: Shots, seed: int, rate: float | None = None) -> Adaptation:
        """rate: the only one that is tried; else all of the method's."""
        if (shots, seed, name, rate) not in self._adaptations:
            config = self.config(shots, seed, None if rate is None else (rate,))
            folder = self.folder / f"shots-{shots}" / f"seed{seed}" / name
            folder = folder if rate is None else folder / f"{rate:g}"
            self._adaptations[shots, seed, name, rate] = Adaptation.open(folder, self.source, config)
        return self._adaptations[shots, seed, name, rate]

    def outcome(self, name: str, shots: Shots, seed: int) -> Outcome:
        """One method's, trained where it is missing.

        Seed 0 searches the rates; the others train with the one chosen there, or with the largest smaller one
        that does not diverge: they have fewer than half of the answers that seed 0 has on validation images.
        """
        if seed == 0 or METHODS[name].form == "head":
            return self.adaptation(name, shots, seed).outcome(METHODS[name])
        first = self.outcome(name, shots, 0)
        for rate in sorted((rate for rate in first.curves if rate <= first.rate), reverse=True):
            found = self.adaptation(name, shots, seed, rate).outcome(METHODS[name])
            if found.curve.scores[-1] >= first.curve.scores[-1] / 2:
                break
        return found

    @property
    def cost(self) -> str:
        """The size of the network in words."""
        cost = store.load(self._pretrained()).cost
        return f"{cost.parameters / 1e3:.0f} k parameters, {cost.macs / 1e6:.1f} M MACs"
