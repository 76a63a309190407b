"""A compatible update: the student's expansion regressed onto the anchor's embeddings of new images.

The regression of this library is quadratic already, so the expansion around the trained student has one
optimum; no labels are needed to learn it. Scored by asymmetric search: the student's queries among the
anchor's gallery, leave-one-out over the test images of the new classes, before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hetero.data.imageset import ImageSet
from hetero.data.protocols import leave_one_out
from hetero.linear.adaptation import ask
from hetero.linear.classifier import outputs, pixels_of
from hetero.linear.config import FinetuneConfig
from hetero.linear.deployment import Embedding, deployable
from hetero.linear.fitting import Curve, Lesson
from hetero.linear.losses import square_loss, towards
from hetero.linear.methods import Method
from hetero.linear.objective import preconditioner_of
from hetero.linear.source import Source
from hetero.linear.sweep import Sweep, best_rate, curve_of
from hetero.linear.tangent import Tangent
from hetero.linear.task import Task, open_task
from hetero.models.encoder import Encoder, embed
from hetero.models.layers import UnitNorm
from hetero.models.store import Model, weights_digest
from hetero.retrieval import MAP, RECALL_AT_1, Comparison, PerQuery, evaluate, paired_difference
from hetero_devices.errors import RecipeError
from hetero_devices.files import read_json, write_json
from hetero_devices.space import Embeddings, check_same

_UPDATE = "update.json"
_METRICS = (RECALL_AT_1, MAP)


@dataclass(frozen=True)
class Updated:
    """A compatible update: the chosen rate, its curves of mean cosine, and M(student, anchor) of each metric.

    before, after: query by query, the same queries; paragon: M(anchor, anchor).
    """

    method: str
    rate: float
    curves: dict[float, Curve]
    before: dict[str, PerQuery]
    after: dict[str, PerQuery]
    paragon: dict[str, PerQuery]

    def gain(self, metric: str) -> Comparison:
        """After minus before, paired, with intervals over classes."""
        after = self.after[metric]
        return paired_difference(after, self.before[metric], clusters=after.labels)


class CompatibleUpdate:
    """A student of a run, images of classes new to it, and a folder that continues after a kill."""

    def __init__(self, folder: Path, source: Source, config: FinetuneConfig) -> None:
        self.folder, self.source, self.config = folder, source, config

    @classmethod
    def open(cls, folder: Path, source: Source, config: FinetuneConfig) -> CompatibleUpdate:
        """RecipeError without an anchor that can embed new images, or for a folder that holds another one."""
        found = cls(folder, source, config)
        check_same(source.model.space, found.anchor.space, "the student", "the anchor of its run")
        _ = found.task
        digest = weights_digest(source.network).hex()
        ask(folder, {"network": digest, "targets": "anchor", **config.model_dump(mode="json")})
        return found

    @cached_property
    def anchor(self) -> Encoder:
        run = self.source.run
        if run is None or run.anchor.encoder is None:
            raise RecipeError(
                "targets of an anchor need a student in its run, RUN/student, whose anchor can embed new "
                "images: give one, or leave --targets out"
            )
        return run.anchor.encoder

    @cached_property
    def task(self) -> Task:
        assert self.source.run is not None
        names = self.source.run.items.class_names
        return open_task(self.config.task, self.source.size, names, self.config.seed)

    @cached_property
    def lesson(self) -> Lesson:
        return Lesson(pixels_of(self.task.train), torch.from_numpy(self._anchored(self.task.train).vectors))

    def updated(self, method: Method) -> Updated:
        """Search the rates by the cosine to the anchor on validation images, then look at the test images."""
        check(method)
        folder, sweep = self.folder / method.name, self._sweep(method)
        if not (folder / _UPDATE).exists():
            curves = sweep.curves(self.config.rates or method.rates)
            sweep.keep(best_rate(curves))
            write_json(folder / _UPDATE, [[rate, asdict(curve)] for rate, curve in curves.items()])
        curves = {rate: curve_of(curve) for rate, curve in read_json(folder / _UPDATE)}
        rate = best_rate(curves)
        untouched = Embedding(self.source.model.deploy)  # not what LeakyReLU was trained into
        before, after = (self._scores(self._vectors(m)) for m in (untouched, sweep.trained(rate)))
        gallery = self._anchored(self.task.test)
        return Updated(method.name, rate, curves, before, after, self._scores(gallery))

    def student(self, method: Method) -> Model:
        """The updated student, for the exporters; an expansion as a network of plain operators.

        Raises ModelError for a network with an operator that has no dual form.
        """
        rate = self.updated(method).rate
        deploy = deployable(self._sweep(method).trained(rate))
        return replace(self.source.model, deploy=deploy, head=None)

    def _sweep(self, method: Method) -> Sweep:
        return Sweep(
            self.folder / method.name,
            lambda: self._model(method),
            lambda found, wanted: square_loss(found, towards(wanted)),
            self.lesson,
            self._cosine,
            self.config.lesson,
            self.config.seed,
            lambda model: preconditioner_of(method, model, self.lesson, self.config),
        )

    def _model(self, method: Method) -> nn.Module:
        model = self.source.model
        if method.leaky and self.config.leaky == "convert":
            model = self.source.leaky(self.config.conversion, self.folder / "leaky", self.config.seed)
        embedding = Embedding(model.deploy).eval()
        return Tangent(embedding) if method.form == "expansion" else embedding.requires_grad_(True)

    def _cosine(self, model: nn.Module) -> float:
        """Mean cosine to the anchor on the validation images."""
        found = _unit(outputs(model, pixels_of(self.task.validation)))
        return float((found * torch.from_numpy(self._held.vectors)).sum(1).mean())

    @cached_property
    def _held(self) -> Embeddings:
        return self._anchored(self.task.validation)

    def _anchored(self, images: ImageSet) -> Embeddings:
        return embed(self.anchor, images)

    def _vectors(self, model: nn.Module) -> Embeddings:
        """What the student says of the test images: in the anchor's space, as any student's."""
        test = self.task.test
        vectors = _unit(outputs(model, pixels_of(test))).numpy().astype(np.float32)
        return Embeddings(vectors, test.ids, test.labels, self.source.model.space)

    def _scores(self, queries: Embeddings) -> dict[str, PerQuery]:
        _ = leave_one_out(self.task.test)  # one image of a class cannot be found
        found = evaluate(queries, self._anchored(self.task.test))
        return {metric: found.per_query(metric) for metric in _METRICS}


def check(method: Method) -> None:
    """RecipeError for a method without a squared loss, or of a head: there are no classes here."""
    if method.loss != "mse" or method.form == "head":
        raise RecipeError(
            f"the method {method.name!r} cannot regress onto embeddings: use lqf, lqf-relu, lqf-sgd or "
            "finetune-mse with --targets anchor"
        )


def update_fields(update: CompatibleUpdate, found: Sequence[Updated]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "folder": str(update.folder),
        "classes": update.task.classes,
        "note": update.source.note(),
        "methods": [_fields(each) for each in found],
    }


def _fields(each: Updated) -> dict[str, Any]:
    return {
        "method": each.method,
        "rate": each.rate,
        "cosine": each.curves[each.rate].scores[-1],
        "seconds": each.curves[each.rate].seconds,
        **{
            metric: {
                "before": each.before[metric].mean,
                "after": each.after[metric].mean,
                "anchor": each.paragon[metric].mean,
                "gain": vars(each.gain(metric).difference),
            }
            for metric in _METRICS
        },
    }


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = UnitNorm()(vectors)
    return unit
