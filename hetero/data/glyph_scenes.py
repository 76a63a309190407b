"""Hard pictures of a glyph: stroke, affine, clutter, colour, light and noise over its ink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hetero.data.imageset import Images

if TYPE_CHECKING:
    from PIL import Image

SUPERSAMPLING = 2  # scenes are drawn at twice the size, then averaged

_ROTATION = np.deg2rad(15.0)
_SHEAR = 0.2
_SCALES = (0.8, 1.15)  # of the glyph as rendered
_SHIFT = 0.08  # of the canvas
_STROKES = ("MinFilter", None, None, "MaxFilter")
_CONTRASTS = (0.4, 0.9)  # |ink - paper|, of the full range
_LIGHT = 0.3  # change of brightness across the picture, at most
_STRAY_DISTANCES = (0.6, 0.75)  # of the centre of the stray glyph, so that a part of it shows at the margin
_NOISES = (0.02, 0.1)  # standard deviations, of the full range

Floats = npt.NDArray[np.float64]


def plain(glyph: Image.Image) -> Images:
    """Black ink on white paper: 8-bit image of 2S x 2S -> uint8 [S, S, 3]."""
    ink = np.asarray(glyph.reduce(SUPERSAMPLING))
    return np.repeat(255 - ink[..., None], 3, axis=-1)


def scenes(glyphs: Sequence[Image.Image], clutter: Sequence[Image.Image], rng: np.random.Generator) -> Images:
    """One scene for each glyph, with bits of `clutter` at its margin: N of 2S x 2S -> uint8 [N, S, S, 3]."""
    drawn = [_with_clutter(_placed(glyph, rng), clutter, rng).reduce(SUPERSAMPLING) for glyph in glyphs]
    return _painted(np.stack([np.asarray(picture) for picture in drawn]), rng)


def _placed(glyph: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The glyph with another stroke width, turned, sheared, scaled and shifted."""
    from PIL import ImageFilter

    if stroke := _STROKES[rng.integers(len(_STROKES))]:
        glyph = glyph.filter(getattr(ImageFilter, stroke)(3))
    return _transformed(glyph, _random_matrix(rng), rng.uniform(-_SHIFT, _SHIFT, 2) * glyph.width)


def _with_clutter(
    picture: Image.Image, clutter: Sequence[Image.Image], rng: np.random.Generator
) -> Image.Image:
    """Two strays on top: a part of another glyph, and a thin line."""
    from PIL import ImageChops, ImageDraw

    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(*_STRAY_DISTANCES) * picture.width
    away = distance * np.array([np.cos(angle), np.sin(angle)])
    stray = _transformed(clutter[int(rng.integers(len(clutter)))], _random_matrix(rng), away)
    line = tuple(rng.uniform(0, picture.width, 4).tolist())
    ImageDraw.Draw(stray).line(line, fill=int(rng.integers(120, 256)), width=SUPERSAMPLING)
    return ImageChops.lighter(picture, stray)


def _random_matrix(rng: np.random.Generator) -> Floats:
    """2 x 2: rotation, shear and the inverse of a scale, from output to input coordinates."""
    turn, shear = rng.uniform(-_ROTATION, _ROTATION), rng.uniform(-_SHEAR, _SHEAR)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    stretch = np.diag(1 / rng.uniform(*_SCALES, 2))
    matrix: Floats = rotation @ np.array([[1.0, shear], [0.0, 1.0]]) @ stretch
    return matrix


def _transformed(picture: Image.Image, matrix: Floats, shift: Floats) -> Image.Image:
    """Affine about the centre; `shift` in pixels of the output."""
    from PIL import Image as pillow

    centre = np.full(2, picture.width / 2)
    offset = centre - matrix @ (centre + shift)
    data = (*matrix[0], offset[0], *matrix[1], offset[1])
    return picture.transform(
        picture.size, pillow.Transform.AFFINE, tuple(map(float, data)), pillow.Resampling.BILINEAR
    )


def _painted(ink: Images, rng: np.random.Generator) -> Images:
    """Random colours (light on dark as often as not), uneven light, noise: [N, S, S] -> [N, S, S, 3]."""
    count, side = ink.shape[:2]
    paper = rng.uniform(0, 1, (count, 1, 1, 3))
    contrast = rng.uniform(*_CONTRASTS, (count, 1, 1, 1)) * rng.uniform(0.6, 1, (count, 1, 1, 3))
    sign = np.where(paper.mean(axis=-1, keepdims=True) > 0.5, -1, 1)
    ramp = np.linspace(-0.5, 0.5, side)
    slope = rng.uniform(-_LIGHT, _LIGHT, (count, 2, 1, 1))
    light = paper + (slope[:, 0] * ramp[None, :, None] + slope[:, 1] * ramp[None, None, :])[..., None]
    noise = rng.standard_normal((count, side, side, 3), dtype=np.float32)
    noise *= rng.uniform(*_NOISES, (count, 1, 1, 1)).astype(np.float32)
    colour = (
        noise + light.astype(np.float32) + (ink[..., None] / np.float32(255)) * np.float32(sign * contrast)
    )
    return (255 * colour.clip(0, 1) + 0.5).astype(np.uint8)
