"""Built-in recipes: functions that return a recipe. Differences from the defaults are all they say."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from hetero.data.augment import AugmentConfig
from hetero.models.build import Preset, preset
from hetero.objectives.contrastive import CrossSupConConfig
from hetero.objectives.heads import SynthesisedHeadConfig
from hetero.objectives.terms import MarginSoftmaxConfig, RegressionConfig
from hetero.recipes.recipe import AnchorConfig, DataConfig, GateConfig, MeasureConfig, Recipe, StudentConfig
from hetero.training.optimizer import FitConfig
from hetero_devices.errors import RecipeError


def demo() -> Recipe:
    """The whole loop on the embedded glyphs in minutes on two cores: shows that it works, not how well."""
    gentle = MarginSoftmaxConfig(scale=16, margin=0.1)  # a larger margin needs a longer training
    return Recipe(
        name="demo",
        data=DataConfig(
            source="glyphs",  # rendered with much variation already
            augment=AugmentConfig(rotation=5, scale=0.05, aspect=0, shear=0.05, shift=0.06, contrast=0.1),
        ),
        anchor=AnchorConfig(
            network=preset("residual-s"),
            objective=(gentle,),
            fit=FitConfig(steps=1800, precision="bf16", ema=0.98, checkpoint_every=100),
        ),
        student=StudentConfig(
            network=preset("elastic-xs"),
            objective=(RegressionConfig(),),
            fit=FitConfig(steps=1400, ema=0.98, checkpoint_every=100),
            alone_objective=(gentle,),
        ),
        measure=MeasureConfig(min_samples=100, min_seconds=0.5),
    )


def omniglot() -> Recipe:
    """Handwritten characters: train on the background alphabets, test on unseen ones; one-drawer gallery."""
    return Recipe(
        name="omniglot",
        data=DataConfig(source="omniglot", rotations=True),
        anchor=AnchorConfig(fit=FitConfig(steps=10000, precision="bf16")),
        student=StudentConfig(
            objective=(RegressionConfig(),), views=6, fit=FitConfig(steps=16000, rate=3e-3)
        ),
    )


def cifar100() -> Recipe:
    """Natural images at 32 px; classes 0-49 train, 50-99 test."""
    return Recipe(
        name="cifar100",
        data=DataConfig(source="cifar100", augment=AugmentConfig(flip=True)),
        anchor=AnchorConfig(fit=FitConfig(steps=12000, precision="bf16")),
        student=StudentConfig(views=6, fit=FitConfig(steps=16000)),
    )


def caltech101() -> Recipe:
    """Photographs at 64 px; classes 0-49 train, 50-99 test."""
    return Recipe(
        name="caltech101",
        data=DataConfig(source="caltech101", size=64, augment=AugmentConfig(flip=True)),
        anchor=AnchorConfig(
            network=preset("residual-m"), fit=FitConfig(steps=4000, batch=64, precision="bf16")
        ),
        student=StudentConfig(network=preset("elastic-l"), views=8, fit=FitConfig(steps=6000)),
    )


def upgrade() -> Recipe:
    """A new model into the space of an old one: give anchor.source=OLD_RUN/anchor, its data and its size.

    The anchor is the old model, the student the new one, as large as you like; the student trained alone is
    the paragon. 'hetero upgrade evaluate' says whether the upgrade is worth it.
    """
    return Recipe(
        name="upgrade",
        student=StudentConfig(
            network=preset("residual-m"),
            objective=UPGRADE_OBJECTIVE,
            views=4,
            fit=FitConfig(steps=6000),
        ),
        gates=GateConfig(criterion=False),  # that criterion is of a phone's student against itself alone
    )


def pretrain() -> Recipe:
    """Networks with LeakyReLU (slope 0.2), to be adapted by 'hetero finetune --method lqf': give data.source.

    LQF expands a network around these weights, and a ReLU would pass it no derivative where it is closed.
    """
    return Recipe(
        name="pretrain",
        anchor=AnchorConfig(network=_leaky("residual-m")),
        student=StudentConfig(network=_leaky("elastic-m"), alone=False),
        gates=GateConfig(criterion=False),  # it compares with the student trained alone
    )


def _leaky(name: str) -> Preset:
    return preset(name).model_copy(update={"activation": "leaky_relu"})


UPGRADE_OBJECTIVE = (
    MarginSoftmaxConfig(),
    SynthesisedHeadConfig(weight=3),
    CrossSupConConfig(weight=10),
)
"""What a new model learns in an upgrade: its classes, where they are in the old space, and to find the old
vectors of its class among others. It needs labels and the old model's vectors, no head. Of some 25
mixtures it had the best mean mAP of new/old and new/new on validation classes of Omniglot and Caltech-101."""

BUILTIN: dict[str, Callable[[], Recipe]] = {
    f.__name__: f for f in (demo, omniglot, cifar100, caltech101, upgrade, pretrain)
}


def builtin(name: str) -> Recipe:
    """The named recipe; RecipeError names the nearest one otherwise."""
    if name not in BUILTIN:
        near = get_close_matches(name, BUILTIN, n=1, cutoff=0)
        raise RecipeError(
            f"there is no recipe {name!r}; the nearest is {near[0]!r} "
            f"(known: {', '.join(BUILTIN)}; or a file ending in .yaml)"
        )
    return BUILTIN[name]()
