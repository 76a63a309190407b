"""`glyphs`: the embedded data set, rendered offline in seconds from fonts that come with matplotlib.

A class is a code point; a group is a font style. Group 0 holds one plain picture of each class (DejaVu Sans,
black on white): the natural gallery. Groups 1 to 16 are the styles of `glyph_shapes.STYLES`, drawn as hard
scenes. Test classes are other code points than training classes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from hetero.data.cache import ImagePlan, Rows, cached
from hetero.data.glyph_scenes import SUPERSAMPLING, plain, scenes
from hetero.data.glyph_shapes import STYLES, distinct_code_points, glyph, styles_of
from hetero.data.imageset import Images
from hetero.data.splits import Splits, from_classes
from hetero.progress import track
from hetero_devices.errors import DataError, require

if TYPE_CHECKING:
    from PIL import Image

_VERSION = 2  # raise when the pictures change: the cache is keyed by it
_FILL = 0.68  # of the canvas: leaves a margin for turning and clutter
_CLUTTER = 128  # different glyphs among the clutter


@dataclass(frozen=True, kw_only=True)
class GlyphRecipe:
    """size: pixels; training, test: classes; per_class: pictures, with the plain one; seed: of everything.

    Raises DataError for a class of less than two pictures, the plain one and a query, or for no class.
    """

    size: int = 32
    training: int = 600
    test: int = 200
    per_class: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("size", 8), ("training", 1), ("test", 1), ("per_class", 2)):
            if getattr(self, name) < least:
                raise DataError(f"glyphs need {name} of at least {least}, not {getattr(self, name)}")


def load_glyphs(recipe: GlyphRecipe, validation_share: float = 0.1) -> Splits:
    """The generated set, made now or earlier. Default protocol: the gallery is the plain style.

    Raises DataError when there are fewer distinct code points than classes asked for.
    """
    versions = [require("PIL", "train").__version__, require("matplotlib", "train").__version__]
    images = cached(["glyphs", _VERSION, *versions, asdict(recipe)], lambda: _plan(recipe)).images
    order = np.random.default_rng(recipe.seed).permutation(len(images.class_names))
    names = [images.class_names[label] for label in order]
    training, test = names[: recipe.training], names[recipe.training :]
    return from_classes(images, training, test, validation_share, protocol="group=0")


def _plan(recipe: GlyphRecipe) -> tuple[ImagePlan, Rows]:
    points = _chosen(recipe)
    rows = [(point, group) for point in points for group in [0, *_style_groups(point, recipe)]]
    plan = ImagePlan(
        recipe.size,
        [class_name(point) for point, _ in rows],
        np.array([group for _, group in rows], dtype=np.int64),
    )
    return plan, enumerate(track(_pictures(points, recipe), "rendering glyphs", len(rows)))


def class_name(point: int) -> str:
    """E.g. "U+00DF LATIN SMALL LETTER SHARP S": sorts by code point."""
    return f"U+{point:04X} {unicodedata.name(chr(point))}"


def _chosen(recipe: GlyphRecipe) -> list[int]:
    """Code points of all classes, ascending: drawn by the seed from the distinct ones."""
    points = distinct_code_points()
    count = recipe.training + recipe.test
    if count > len(points):
        raise DataError(f"{count} glyph classes were asked for, the fonts have {len(points)} distinct ones")
    drawn = np.random.default_rng(recipe.seed).choice(np.array(points), count, replace=False)
    return sorted(int(point) for point in drawn)


def _style_groups(point: int, recipe: GlyphRecipe) -> list[int]:
    """The style number (1-based) of each scene of a class: all its styles in turn."""
    styles = styles_of(point)
    return [1 + STYLES.index(styles[turn % len(styles)]) for turn in range(recipe.per_class - 1)]


def _pictures(points: list[int], recipe: GlyphRecipe) -> Iterator[Images]:
    """uint8 [size, size, 3], class after class. Each class has a generator of its own."""
    rng = np.random.default_rng([recipe.seed, _CLUTTER])
    clutter = [_glyph(STYLES[0], int(point), recipe) for point in rng.choice(points, _CLUTTER)]
    for point in points:
        glyphs = {style: _glyph(style, point, recipe) for style in styles_of(point)}
        yield plain(glyphs[STYLES[0]])
        chosen = [glyphs[STYLES[group - 1]] for group in _style_groups(point, recipe)]
        yield from scenes(chosen, clutter, np.random.default_rng([recipe.seed, point]))


def _glyph(style: str, point: int, recipe: GlyphRecipe) -> Image.Image:
    drawn = glyph(style, point, SUPERSAMPLING * recipe.size, _FILL)
    assert drawn is not None, f"{style} has no ink for U+{point:04X}"
    return drawn
