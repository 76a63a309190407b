"""A model that was not trained here, as a bundle: from its source and images of the kind it will meet."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from hetero import data
from hetero.models.foreign.config import ForeignConfig
from hetero.models.foreign.source import open_model
from hetero.models.store import weights_digest
from hetero.recipes.recipe import ExportConfig
from hetero.upgrades.links.attach import attached
from hetero_devices.bundle import Bundle
from hetero_devices.errors import RecipeError
from hetero_export.bundle import write_bundle
from hetero_export.choosing import calibration, spread
from hetero_export.loop import opened_link


class ModelRecipe(ForeignConfig):
    """The model, and the data whose training images calibrate int8 and become the golden images."""

    data: str = Field(default="", description="as in `hetero data`")
    root: str | None = Field(default=None, description="folder of the named data sets")
    seed: int = Field(default=0, ge=0, lt=2**31, description="of random weights and the choice of images")
    export: ExportConfig = ExportConfig()

    @property
    def model(self) -> ForeignConfig:
        """What of this describes the model alone."""
        return ForeignConfig.model_validate(self.model_dump(include=set(ForeignConfig.model_fields)))


def export_model(recipe: ModelRecipe, folder: Path) -> Bundle:
    """Open the model and write its bundle; its space is its own.

    Raises RecipeError without data, and what `open_model`, `data.load` and `write_bundle` raise.
    """
    if not recipe.data:
        raise RecipeError(
            f"the export of {recipe.source} needs images of the kind it will meet, for calibration and as "
            "golden images: give data=FOLDER (or a named data set, see 'hetero data')"
        )
    model = open_model(recipe.model, recipe.seed)
    link = opened_link(recipe.export)
    if link is not None:
        model = attached(model, link)
    size, root = model.deploy.preprocessing.size, Path(recipe.root) if recipe.root else None
    images = data.load(recipe.data, size=size, root=root, seed=recipe.seed).train
    return write_bundle(
        model,
        folder,
        name=recipe.source,
        calibration=calibration(images, recipe.export, recipe.seed),
        golden=spread(images, recipe.export.golden),
        formats=recipe.export.formats,
        precisions=recipe.export.precisions,
        mixed=recipe.export.mixed,
        source={
            "model": recipe.source,
            "weights": recipe.weights,
            "seed": recipe.seed,
            "weights_sha256": weights_digest(model.deploy.network).hex(),
            **({"link": link.digest} if link else {}),
        },
    )
