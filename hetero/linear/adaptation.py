"""One network adapted to one few-shot task by any of the methods, in a folder that continues after a kill.

FOLDER/finetune.json      what was asked
FOLDER/leaky/             the network with LeakyReLU, where it had to be converted
FOLDER/METHOD/RATE/       one training, see `sweep`
FOLDER/METHOD/outcome.json, correct.npy    the chosen rate, its curves, and which test images it answers
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hetero.linear.calibration import calibrated_scale
from hetero.linear.classifier import Classifier, outputs, pixels_of
from hetero.linear.config import FinetuneConfig
from hetero.linear.deployment import deployable_classifier
from hetero.linear.fitting import Curve, Lesson
from hetero.linear.head import Sums, with_one
from hetero.linear.methods import METHODS, Method, last_block
from hetero.linear.objective import loss_of, preconditioner_of, squared_targets
from hetero.linear.source import Source
from hetero.linear.sweep import Sweep, best, best_rate, curve_of
from hetero.linear.tangent import Tangent
from hetero.linear.task import Task, open_task
from hetero.models.store import Model, define_space, weights_digest
from hetero.retrieval import PerQuery
from hetero.upgrades.classifier import ACCURACY
from hetero_devices.errors import RecipeError
from hetero_devices.files import read_json, save_array, write_json

_ASKED, _OUTCOME, _CORRECT = "finetune.json", "outcome.json", "correct.npy"


@dataclass(frozen=True)
class Outcome:
    """One method: curves of all rates on validation images, the chosen rate, and its answers to the test.

    correct: 1 where the class of a test image is named.
    """

    method: str
    rate: float
    curves: dict[float, Curve]
    correct: PerQuery

    @property
    def curve(self) -> Curve:
        return self.curves[self.rate]


class Adaptation:
    """A network, a task and a folder; `outcome(method)` is trained once, asking again gives what is there."""

    def __init__(self, folder: Path, source: Source, config: FinetuneConfig) -> None:
        self.folder, self.source, self.config = folder, source, config

    @classmethod
    def open(cls, folder: Path, source: Source, config: FinetuneConfig) -> Adaptation:
        """Start or continue; RecipeError when the folder holds what was asked otherwise."""
        found = cls(folder, source, config)
        _ = found.task  # refuses data that cannot be used before anything is written
        ask(folder, {"network": weights_digest(source.network).hex(), **config.model_dump(mode="json")})
        return found

    @cached_property
    def task(self) -> Task:
        known = self.source.model.classes
        if not known and self.source.run is not None:
            known = self.source.run.items.class_names  # a student without a head has no class names
        return open_task(self.config.task, self.source.size, known, self.config.seed)

    @cached_property
    def lesson(self) -> Lesson:
        return Lesson(pixels_of(self.task.train), torch.from_numpy(self.task.train.labels))

    @cached_property
    def _validation(self) -> Lesson:
        return Lesson(pixels_of(self.task.validation), torch.from_numpy(self.task.validation.labels))

    @cached_property
    def leaky(self) -> Model:
        """The network of the rows with LeakyReLU."""
        if self.config.leaky == "keep":
            return self.source.model
        return self.source.leaky(self.config.conversion, self.folder / "leaky", self.config.seed)

    def score(self, network: nn.Module) -> float:
        """Accuracy on the validation images."""
        return _accuracy(outputs(network, self._validation.pixels), self._validation.targets)

    def start(self, method: Method) -> Classifier:
        """The network with its ridge head, where every method starts; in evaluation mode.

        The decay of the ridge is chosen on validation images. The head is not zero, since a zero head passes
        no derivative on to the network below it. For cross-entropy its logits are brought to scale.
        """
        found, _ = self._start("leaky" if method.leaky else "plain")
        if method.loss == "cross-entropy":
            scale = calibrated_scale(outputs(found, self._validation.pixels), self._validation.targets)
            with torch.no_grad():
                found.head.weight.mul_(scale)
                found.head.bias.mul_(scale)
        return found

    def _start(self, kind: str) -> tuple[Classifier, dict[float, float]]:
        """A fresh classifier with the best ridge head, and the score of each decay."""
        model = self.leaky if kind == "leaky" else self.source.model
        classifier = Classifier(model.deploy, self.task.classes).eval()
        features = with_one(outputs(_Features(classifier), self.lesson.pixels))
        sums = Sums.of(features, squared_targets(self.lesson.targets, self.task.classes, self.config))
        scores = {}
        for decay in METHODS["head"].rates:
            _set_head(classifier, sums.ridge(decay * sums.samples))
            scores[decay] = self.score(classifier)
        _set_head(classifier, sums.ridge(best(scores) * sums.samples))
        return classifier, scores

    def model_of(self, method: Method) -> nn.Module:
        """What `method` trains, at its start: a network, or the expansion of one."""
        start = self.start(method)
        if method.form == "network":
            return start.requires_grad_(True)
        few = method.last or self.config.expand == "last"
        moving = (*last_block(start.deploy.network, "deploy.network."), "head") if few else None
        return Tangent(start, moving)

    def outcome(self, method: Method) -> Outcome:
        """Search the rates on validation images, then look at the test images once."""
        folder = self.folder / method.name
        if not (folder / _OUTCOME).exists():
            curves = self._head() if method.form == "head" else self._sweep(method).curves(self.rates(method))
            rate = best_rate(curves)
            save_array(folder / _CORRECT, self._correct(method, rate))
            self._sweep(method).keep(rate)
            fields = {"rate": rate, "curves": [[rate, asdict(curve)] for rate, curve in curves.items()]}
            write_json(folder / _OUTCOME, fields)
        return self._load(method.name)

    def rates(self, method: Method) -> tuple[float, ...]:
        """Those that are searched."""
        return self.config.rates or method.rates

    def trained(self, method: Method, rate: float | None = None) -> nn.Module:
        """The model of the chosen rate: float32 [N, 3, S, S] pixels 0..255 -> logits float32 [N, C]."""
        if method.form == "head":
            return self.start(method)
        return self._sweep(method).trained(self._load(method.name).rate if rate is None else rate)

    def classifier(self, method: Method) -> Model:
        """The adapted classifier, for the exporters: class scores of unit norm, in a space of their own.

        Raises ModelError for an expansion of a network with an operator that has no dual form.
        """
        _ = self.outcome(method)
        deploy, names = deployable_classifier(self.trained(method)), self.task.test.class_names
        space = define_space(deploy, deploy.preprocessing, self.task.classes)
        return replace(self.source.model, deploy=deploy, space=space, head=None, classes=names)

    def _head(self) -> dict[float, Curve]:
        begun = time.perf_counter()
        _, scores = self._start("plain")
        seconds = (time.perf_counter() - begun) / len(scores)
        return {decay: Curve((score,), seconds) for decay, score in scores.items()}

    def _sweep(self, method: Method) -> Sweep:
        config = self.config
        return Sweep(
            self.folder / method.name,
            lambda: self.model_of(method),
            loss_of(method.loss, self.task.classes, config),
            self.lesson,
            self.score,
            config.lesson,
            config.seed,
            lambda model: preconditioner_of(method, model, self.lesson, config),
        )

    def _correct(self, method: Method, rate: float) -> Any:
        logits = outputs(self.trained(method, rate), pixels_of(self.task.test))
        return logits.argmax(1).numpy() == self.task.test.labels

    def _load(self, name: str) -> Outcome:
        fields, test = read_json(self.folder / name / _OUTCOME), self.task.test
        bits = np.load(self.folder / name / _CORRECT, allow_pickle=False).astype(np.float64)
        curves = {rate: curve_of(curve) for rate, curve in fields["curves"]}
        return Outcome(name, fields["rate"], curves, PerQuery(ACCURACY, test.ids, test.labels, bits))


class _Features(nn.Module):
    """What the head of a classifier sees."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier.features(pixels)


@torch.no_grad()
def _set_head(classifier: Classifier, head: Tensor) -> None:
    """head: float64 [C, D + 1], the last column is the bias."""
    classifier.head.weight.copy_(head[:, :-1])
    classifier.head.bias.copy_(head[:, -1])


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def ask(folder: Path, asked: dict[str, Any]) -> None:
    """Note in the folder what is asked; RecipeError when it holds what was asked otherwise."""
    if (folder / _ASKED).exists() and _without_paths(read_json(folder / _ASKED)) != _without_paths(asked):
        raise RecipeError(f"{folder} holds a fine-tuning that was asked otherwise: use another folder")
    write_json(folder / _ASKED, asked)


def _without_paths(asked: dict[str, Any]) -> dict[str, Any]:
    """Where data lie may change."""
    task = {key: value for key, value in asked["task"].items() if key not in ("root", "base_url")}
    return {**asked, "task": task}


def outcomes(adaptation: Adaptation, methods: Sequence[Method]) -> list[Outcome]:
    """Every method's, one after the other."""
    return [adaptation.outcome(method) for method in methods]
