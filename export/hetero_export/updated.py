"""A student after a compatible update, as a bundle."""

from __future__ import annotations

from pathlib import Path

from hetero.linear.compatible import CompatibleUpdate
from hetero.linear.methods import Method
from hetero.models.store import weights_digest
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
    export, images, seed = run.recipe.export, run.splits.train, run.recipe.seed
    model = update.student(method)
    return write_bundle(
        model,
        folder,
        name=f"{run.recipe.name}, updated by {method.name}",
        calibration=calibration(images, export, seed),
        golden=spread(images, export.golden),
        formats=export.formats,
        precisions=export.precisions,
        mixed=export.mixed,
        source={
            "recipe": run.recipe.name,
            "seed": seed,
            "update": method.name,
            "updated_from_sha256": weights_digest(update.source.network).hex(),
            "weights_sha256": weights_digest(model.deploy.network).hex(),
        },
    )
