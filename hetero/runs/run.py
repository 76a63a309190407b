"""The run directory and the stages that fill it.

RUN/recipe.json          the resolved recipe
RUN/environment.json     machine and versions
RUN/anchor/              model.json, weights, head, views/ (cached embeddings), metrics.jsonl
RUN/student/, RUN/alone/ the compatible student, and the same network trained without the anchor
RUN/student-FORMAT-int8/ the student finished for that format's int8 artefact, where the recipe says so
RUN/bundle/              the exported artefact
RUN/report/              report.html, report.md, report.json
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hetero.data import QueryGallery, Splits, load, protocol
from hetero.data.splits import restricted
from hetero.models import anchor as anchors
from hetero.models import store
from hetero.models.anchor import Anchor
from hetero.models.build import NetworkConfig, build
from hetero.models.deploy import Deploy
from hetero.models.store import Model, define_space
from hetero.models.wrap import on_device, prefix_anchor
from hetero.objectives.terms import Given, Objective, Reference, TermConfig
from hetero.recipes.recipe import Recipe
from hetero.recipes.resolve import validated
from hetero.runs.environment import environment
from hetero.tensors import load_tensors
from hetero.training.batches import Batches
from hetero.training.items import TrainingItems
from hetero.training.loop import CHECKPOINT, Fit
from hetero.training.optimizer import FitConfig
from hetero.training.views import CachedTargets, LiveTargets, StoredTargets, Targets, Views
from hetero_devices.errors import DataError, RecipeError
from hetero_devices.files import read_json, write_json
from hetero_devices.space import Preprocessing, check_same

_RECIPE, _ENVIRONMENT = "recipe.json", "environment.json"
_MAY_CHANGE = ("data.root", "data.base_url", "search.")  # where data lies; a search minds its own settings


@dataclass(frozen=True)
class _Training:
    """One network to be trained: where, what, by which objective."""

    name: str
    network: NetworkConfig
    objective: tuple[TermConfig, ...]
    fit: FitConfig
    anchor: Anchor | None = None
    start: str | None = None


class Run:
    """A recipe carried out in a folder. Every stage is done once; asking again gives what is there."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe

    @classmethod
    def open(cls, folder: Path, recipe: Recipe) -> Run:
        """Start or continue a run; RecipeError when the folder holds what another recipe made."""
        fields = recipe.model_dump(mode="json")
        if _begun(folder):
            stored = validated(read_json(folder / _RECIPE)).model_dump(mode="json")  # with newer defaults
            changed = [key for key in _differences(stored, fields) if not key.startswith(_MAY_CHANGE)]
            if changed:
                raise RecipeError(
                    f"{folder} holds a run of another recipe (differs in {', '.join(changed[:3])}): "
                    "use another folder"
                )
        else:
            write_json(folder / _ENVIRONMENT, environment())
        write_json(folder / _RECIPE, fields)
        return cls(folder, recipe)

    @classmethod
    def existing(cls, folder: Path) -> Run:
        """The run in `folder`; RecipeError when there is none."""
        if not (folder / _RECIPE).is_file():
            raise RecipeError(
                f"{folder} is not a run folder: {_RECIPE} is missing; make one with 'hetero train'"
            )
        return cls(folder, validated(read_json(folder / _RECIPE)))

    @cached_property
    def splits(self) -> Splits:
        """Train, validation and test images of the recipe's data."""
        data, seed = self.recipe.data, self.recipe.seed
        whole = load(
            data.source,
            size=data.size,
            root=Path(data.root) if data.root else None,
            base_url=data.base_url,
            validation_share=data.validation_share,
            seed=seed,
            group_pattern=data.group_pattern,
        )
        return replace(whole, train=restricted(whole.train, data.train_classes, data.train_share, seed))

    @cached_property
    def test(self) -> QueryGallery:
        """The test images as queries and gallery."""
        return protocol(self.recipe.data.protocol or self.splits.protocol, self.splits.test, self.recipe.seed)

    @cached_property
    def items(self) -> TrainingItems:
        return TrainingItems(self.splits.train, self.recipe.data.rotations)

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(size=self.recipe.data.size)

    @cached_property
    def anchor(self) -> Anchor:
        """The anchor whose space the student lives in: the recipe's, or where it says so its prefix."""
        student, whole = self.recipe.student, self.whole_anchor
        if student.dimension != "prefix":
            return whole
        dim = student.network.output_dim
        if dim >= whole.space.dim:
            raise RecipeError(
                f"student.network.dim={dim} is no prefix of the anchor's {whole.space.dim} dimensions: "
                "set a smaller one, or student.dimension=equal"
            )
        return prefix_anchor(whole, dim)

    @cached_property
    def whole_anchor(self) -> Anchor:
        """The recipe's anchor: opened where it is brought, else trained (or continued) here."""
        config = self.recipe.anchor
        if config.source != "train":
            return anchors.bring(config.source, self.preprocessing)
        training = _Training("anchor", config.network, config.objective, config.fit)
        return anchors.from_model(self._trained(training))

    @cached_property
    def others(self) -> tuple[Anchor, ...]:
        """Further old models that the student is to be compatible with; they live in the anchor's space."""
        found = tuple(anchors.bring(folder, self.preprocessing) for folder in self.recipe.anchor.also)
        for folder, other in zip(self.recipe.anchor.also, found, strict=True):
            check_same(self.whole_anchor.space, other.space, "the anchor", f"anchor.also={folder}")
        if self.recipe.student.dimension != "prefix":
            return found
        return tuple(prefix_anchor(other, self.anchor.space.dim) for other in found)

    @cached_property
    def student(self) -> Model:
        """The student trained into the anchor's space."""
        config, anchor = self.recipe.student, self.anchor
        return self._trained(
            _Training("student", self._network, config.objective, config.fit, anchor, config.start)
        )

    def cache_views(self) -> None:
        """Embed the training views by the anchor, where that is still to be done.

        Students of one run that are trained in several processes need it done before.
        """
        self.targets(self.anchor)
        self._further(self.anchor.space.dim)

    def student_by(
        self,
        objective: tuple[TermConfig, ...],
        fit: FitConfig,
        name: str,
        network: NetworkConfig | None = None,
    ) -> Model:
        """Another student of this run, by another objective, schedule or network, kept in RUN/`name`.

        The name stands for them: a folder that holds a model is opened as it is. Comparisons of objectives
        and of architectures share a run's anchor and its cached views in this way. network: of the anchor's
        dimension.
        """
        return self._trained(_Training(name, network or self._network, objective, fit, self.anchor))

    @cached_property
    def alone(self) -> Model:
        """The student's network trained without the anchor: the control, in a space of its own."""
        config = self.recipe.student
        return self._trained(_Training("alone", self._network, config.alone_objective, config.fit))

    @property
    def _network(self) -> NetworkConfig:
        """The student's network, which returns vectors of the anchor's dimension."""
        student, dim = self.recipe.student, self.anchor.space.dim
        if student.dimension == "projection":
            return student.network.model_copy(update={"project": dim})
        if student.dimension == "extended":
            if student.network.output_dim <= dim:
                raise RecipeError(
                    f"student.network.dim={student.network.output_dim} does not extend the anchor's {dim} "
                    "dimensions: set a larger one, or student.dimension=equal"
                )
            return student.network
        if student.network.output_dim != dim:
            raise RecipeError(
                f"the student's dimension is {student.network.output_dim} and the anchor's is {dim}: "
                f"set student.network.dim={dim}, or student.dimension to projection, prefix or extended"
            )
        return student.network

    def _trained(self, training: _Training) -> Model:
        folder = self.folder / training.name
        if not (folder / store.DESCRIPTION).exists():
            self._train(training, folder)
        return store.load(folder)

    def _train(self, training: _Training, folder: Path) -> None:
        recipe, own = self.recipe, training.network.output_dim
        dim = training.anchor.space.dim if training.anchor else own  # an extended student's own is larger
        targets = self.targets(training.anchor) if training.anchor else None
        given = self._given(training.anchor, targets, dim)
        torch.manual_seed(recipe.seed)
        deploy = Deploy(_started(build(training.network), training.start), self.preprocessing)
        further = self._further(dim) if training.anchor else []
        objective = Objective(
            training.objective, given, [known for known, _ in further], own if own > dim else None
        )
        batches = Batches(
            self.items,
            recipe.data.augment,
            training.fit.batch,
            recipe.seed,
            targets,
            [found for _, found in further],
        )
        fit = Fit(deploy, objective, training.fit, folder, recipe.seed)
        trained = fit.run(batches).to("cpu")
        classifies = all(term.own_space for term in training.objective)
        anchored = training.anchor and own == dim and not classifies
        space = (
            training.anchor.space
            if training.anchor and anchored
            else define_space(trained.network, self.preprocessing, own)
        )
        head = objective.cpu().head()
        classes = () if head is None else self.items.class_names
        Model(trained, training.network, space, head, classes).save(
            folder, {"recipe": recipe.name, "seed": recipe.seed}
        )
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def _given(self, anchor: Anchor | None, targets: Targets | None, dim: int) -> Given:
        """What an objective may be built from, towards one anchor or none."""
        given = given_by(self.items, targets, dim, anchor.head if anchor else None, self.recipe.seed)
        if not anchor or not anchor.classes:
            return given
        return replace(given, head_classes=_places(anchor.classes, self.items.class_names))

    def _further(self, dim: int) -> list[tuple[Given, Targets]]:
        """The same of the further old models."""
        targets = [
            self.targets(other, f"views-{number}") for number, other in enumerate(self.others, start=1)
        ]
        return [
            (self._given(other, found, dim), found) for other, found in zip(self.others, targets, strict=True)
        ]

    def targets(self, anchor: Anchor, views: str = "views") -> Targets:
        """The anchor's embeddings of the training items, as the recipe says: cached, live or stored."""
        if anchor.encoder is None:
            if self.recipe.data.rotations:
                raise DataError(
                    "a black-box anchor has no embeddings of turned images: set data.rotations=false"
                )
            return StoredTargets(anchor.embed("train", self.splits.train).vectors)
        student = self.recipe.student
        encoder = on_device(anchor.encoder, student.fit.device)
        if not student.views:
            return LiveTargets(self.items, encoder)
        drawn = Views(self.items, self.recipe.data.augment, student.views, self.recipe.seed)
        return CachedTargets(self.folder / "anchor" / views, drawn, encoder)


def _begun(folder: Path) -> bool:
    """Whether a recipe made something there; one that failed at its first step may be corrected."""
    made = folder.iterdir() if (folder / _RECIPE).exists() else ()
    return any(path.name not in (_RECIPE, _ENVIRONMENT) for path in made)


def _started(network: nn.Module, weights: str | None) -> nn.Module:
    """The network with weights from a file, where one is given; RecipeError when it is of another network."""
    if weights is not None:
        try:
            network.load_state_dict(load_tensors(Path(weights).expanduser())[0])
        except RuntimeError as error:
            first = " ".join(str(error).split())[:120]
            raise RecipeError(f"{weights} has the weights of another network: {first}") from None
    return network


def given_by(
    items: TrainingItems, targets: Targets | None, dim: int, head: Tensor | None, seed: int
) -> Given:
    """What an objective may be built from: training items and, where there is a teacher, its embeddings."""
    if targets is None:
        return Given(items.classes, dim, anchor=False, head=None, seed=seed)

    def reference() -> Reference:
        return Reference(targets.reference(), items.labels(np.arange(len(items))))

    return Given(items.classes, dim, anchor=True, head=head, reference=cache(reference), seed=seed)


def _places(names: tuple[str, ...], classes: tuple[str, ...]) -> Tensor:
    """int64 [S]: the place of each name among the classes, -1 where it is none of them."""
    place = {name: i for i, name in enumerate(classes)}
    return torch.tensor([place.get(name, -1) for name in names], dtype=torch.int64)


def _differences(old: object, new: object, prefix: str = "") -> list[str]:
    """Dotted keys in which two recipes differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{prefix}{k}.")]
    return [] if old == new else [prefix.rstrip(".")]
