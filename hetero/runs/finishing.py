"""The stage of a run that finishes its student for the int8 artefact of a format."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from hetero.data.imageset import Images
from hetero.data.unlabelled import unlabelled
from hetero.models import store
from hetero.models.encoder import Encoder
from hetero.models.store import Model
from hetero.models.wrap import on_device
from hetero.objectives.terms import Objective
from hetero.quantisation.config import QuantisedConfig
from hetero.quantisation.finishing import finish
from hetero.runs.run import Run, given_by
from hetero.training.batches import Batches
from hetero.training.items import TrainingItems
from hetero.training.loop import CHECKPOINT
from hetero.training.optimizer import FitConfig
from hetero.training.views import LiveTargets, Targets
from hetero_devices.errors import RecipeError
from hetero_devices.files import read_json
from hetero_devices.runtimes import Format


def finished(run: Run, format: Format, calibration: Images) -> Model:
    """The run's student finished for the int8 artefact of `format`, kept in RUN/student-FORMAT-int8.

    calibration: uint8 [K, S, S, 3], those of the export. The recipe's `student.quantised` says how. Done
    once; killed at any moment, calling it again continues with the same result. Raises RecipeError when it
    was finished for other calibration images or cannot be done as the recipe says, ModelError for a network
    that cannot be simulated.
    """
    folder = run.folder / f"student-{format}-int8"
    digest = hashlib.sha256(calibration.tobytes()).hexdigest()
    if not (folder / store.DESCRIPTION).exists():
        _finish(run, format, calibration, folder).save(
            folder, {"recipe": run.recipe.name, "seed": run.recipe.seed, "calibration_sha256": digest}
        )
        (folder / CHECKPOINT).unlink(missing_ok=True)
    elif read_json(folder / store.DESCRIPTION)["training"].get("calibration_sha256") != digest:
        raise RecipeError(f"{folder} was finished for other calibration images: delete it to do it again")
    return store.load(folder)


@dataclass(frozen=True)
class _Lesson:
    """What is trained on, towards whose embeddings; head: the teacher's class prototypes float32 [C, D]."""

    items: TrainingItems
    targets: Targets
    head: Tensor | None


def _finish(run: Run, format: Format, calibration: Images, folder: Path) -> Model:
    config, seed = run.recipe.student.quantised, run.recipe.seed
    assert config is not None
    if config.fit is None:
        return finish(
            run.student, format, config, calibration, objective=None, batches=None, folder=folder, seed=seed
        )
    lesson = _lesson(run, config, config.fit)
    given = given_by(lesson.items, lesson.targets, run.student.space.dim, lesson.head, seed)
    objective = Objective(config.objective or run.recipe.student.objective, given)
    batches = Batches(lesson.items, run.recipe.data.augment, config.fit.batch, seed, lesson.targets)
    return finish(
        run.student,
        format,
        config,
        calibration,
        objective=objective,
        batches=batches,
        folder=folder,
        seed=seed,
    )


def _lesson(run: Run, config: QuantisedConfig, fit: FitConfig) -> _Lesson:
    if config.images is None and config.teacher == "anchor":
        return _Lesson(run.items, run.targets(run.anchor), run.anchor.head)
    items = run.items if config.images is None else _unlabelled(run, config.images)
    return _Lesson(items, LiveTargets(items, on_device(_teacher(run, config), fit.device)), None)


def _unlabelled(run: Run, images: str) -> TrainingItems:
    return TrainingItems(unlabelled(Path(images).expanduser(), run.recipe.data.size))


def _teacher(run: Run, config: QuantisedConfig) -> Encoder:
    if config.teacher == "student":
        return run.student.encoder
    if run.anchor.encoder is None:
        raise RecipeError(
            "a black-box anchor cannot embed new images: set student.quantised.teacher=student, "
            "or leave student.quantised.images out"
        )
    return run.anchor.encoder
