"""What is adapted: a trained model and, where known, the run that trained it and so its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from hetero.linear.rectifiers import converted, is_leaky, rectified
from hetero.models import store
from hetero.models.foreign.config import ForeignConfig
from hetero.models.foreign.source import is_foreign, open_model
from hetero.models.store import Model
from hetero.runs import Run
from hetero.training.optimizer import FitConfig
from hetero_devices.bundle import MANIFEST
from hetero_devices.errors import ModelError


@dataclass(frozen=True)
class Source:
    """model: the pre-trained network; run: None where nobody knows what it was trained on.

    with_leaky: the same with LeakyReLU, where it is at hand already.
    """

    model: Model
    run: Run | None = None
    with_leaky: Model | None = None

    @property
    def network(self) -> nn.Module:
        return self.model.deploy.network

    @property
    def size(self) -> int:
        """The side of its images in pixels."""
        return self.model.deploy.preprocessing.size

    def convertible(self) -> bool:
        """Whether it has ReLUs and its training images are known, so that LeakyReLU can be trained in."""
        known = self.run is not None and not isinstance(self.model.config, ForeignConfig)
        return known and rectified(self.network)

    def leaky(self, fit: FitConfig, folder: Path, seed: int) -> Model:
        """The model with LeakyReLU, retrained on the run's images and kept in `folder`; as it is if smooth.

        Also as it is where it has LeakyReLU already, or the images are not known: see `note`.
        """
        if self.with_leaky is not None:
            return self.with_leaky
        if not self.convertible():
            return self.model
        assert self.run is not None
        return converted(self.model, self.run.items, self.run.recipe.data.augment, fit, folder, seed)

    def note(self) -> str | None:
        """What a reader has to know of the network that stands for LeakyReLU; None where it is one."""
        if self.with_leaky or is_leaky(self.network) or self.convertible():
            return None
        if rectified(self.network):
            return "the network keeps its ReLU: the images it was trained on are not known here"
        return "the network has no ReLU: rows that differ by LeakyReLU alone are the same"


def open_source(source: str, size: int | None = None) -> Source:
    """A run (its student), a trained model's folder (RUN/anchor, RUN/student), or timm:NAME and the like.

    size: of the images, for models from elsewhere. Raises ModelError for anything else: a bundle holds no
    weights that could be trained.
    """
    path = Path(source)
    if is_foreign(source):
        return Source(open_model(ForeignConfig(source=source, size=size)))
    if (path / MANIFEST).is_file():
        raise ModelError(f"{path} is a bundle, made for inference: give the run it was exported from")
    if (path / "recipe.json").is_file():
        path = path / "student"
    if not (path / store.DESCRIPTION).is_file():
        raise ModelError(
            f"{path} is neither a run nor a trained model's folder (RUN/student, RUN/anchor), timm:NAME, "
            "hf:NAME nor package.module:function"
        )
    model = store.load(path)
    return Source(model, Run.existing(path.parent) if (path.parent / "recipe.json").is_file() else None)
