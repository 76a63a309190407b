"""Fine-tuned networks as bundles: a student after a compatible update, and an adapted classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hetero.data.imageset import ImageSet
from hetero.linear.adaptation import Adaptation
from hetero.linear.compatible import CompatibleUpdate
from hetero.linear.methods import Method
from hetero.linear.source import Source
from hetero.models.store import Model, weights_digest
from hetero.recipes.recipe import ExportConfig
from hetero_devices.bundle import Bundle
from hetero_export.bundle import write_bundle
from hetero_export.choosing import calibration, spread


def export_update(update: CompatibleUpdate, method: Method, folder: Path) -> Bundle:
    """Write the updated student as its run's recipe exports: the same formats, precisions and calibration.

    The space is that of the anchor. Raises ModelError for an expansion with an operator that has no dual
    form, and what `write_bundle` raises.
    """
    run = update.source.run
    assert run is not None, "a compatible update has a run"
    made_by = {"update": method.name}
    return _written(update.source, update.student(method), run.splits.train, folder, method, made_by)


def export_classifier(adaptation: Adaptation, method: Method, folder: Path) -> Bundle:
    """Write the adapted classifier: class scores of unit norm, in the order of `source.classes`.

    Formats, precisions and calibration are those of the network's run, else the defaults; calibration images
    are those it was adapted with. Raises ModelError as `export_update`.
    """
    model = adaptation.classifier(method)
    made_by = {"adaptation": method.name, "classes": list(model.classes)}
    return _written(adaptation.source, model, adaptation.task.train, folder, method, made_by)


def _written(
    source: Source, model: Model, images: ImageSet, folder: Path, method: Method, made_by: dict[str, Any]
) -> Bundle:
    """images: for calibration and golden vectors."""
    recipe = source.run.recipe if source.run else None
    export, seed = (recipe.export, recipe.seed) if recipe else (ExportConfig(), 0)
    return write_bundle(
        model,
        folder,
        name=f"{recipe.name if recipe else 'network'}, fine-tuned by {method.name}",
        calibration=calibration(images, export, seed),
        golden=spread(images, export.golden),
        formats=export.formats,
        precisions=export.precisions,
        mixed=export.mixed,
        source={
            "recipe": recipe.name if recipe else None,
            "seed": seed,
            **made_by,
            "updated_from_sha256": weights_digest(source.network).hex(),
            "weights_sha256": weights_digest(model.deploy.network).hex(),
        },
    )
