"""Glyphs from the fonts inside matplotlib, and the choice of code points that look different."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hetero_devices.errors import require

if TYPE_CHECKING:
    from PIL import Image, ImageFont

# The first style is the plain one of the gallery. Every class has all DejaVu styles, some have STIX ones.
DEJAVU = tuple(
    f"DejaVu{name}"
    for name in (
        *("Sans", "Sans-Bold", "Sans-Oblique", "Sans-BoldOblique"),
        *("Serif", "Serif-Bold", "Serif-Italic", "Serif-BoldItalic"),
        *("SansMono", "SansMono-Bold", "SansMono-Oblique", "SansMono-BoldOblique"),
    )
)
STIX = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta")
STYLES = DEJAVU + STIX

_CATEGORIES = frozenset({"Ll", "Lu", "Lt", "Lo", "Lm", "Nd", "No", "Sm", "Sc", "So", "Po"})
_BOXES_AND_BRAILLE = (range(0x2500, 0x25A0), range(0x2800, 0x2900))  # the same drawing in every style
_COMPARED = ("DejaVuSans", "DejaVuSerif")
_SIDE = 24  # pixels at which shapes are compared
_DISTINCT = 0.12  # Dice distance below which two code points count as one shape (A, Alpha and Cyrillic A: 0)

Floats = npt.NDArray[np.float32]


@cache
def distinct_code_points() -> tuple[int, ...]:
    """Code points with visible, mutually different shapes in every DejaVu style, ascending.

    Of glyphs nearer than `_DISTINCT` in any of the compared styles the first code point stays.
    """
    glyphs = {
        point: [glyph(style, point, _SIDE, 0.85) for style in _COMPARED]
        for point in sorted(_shared())
        if _usable(point)
    }
    points = [point for point, pair in glyphs.items() if all(pair)]
    ink = [[np.asarray(picture) for picture in glyphs[point]] for point in points]
    shapes = np.array(ink, dtype=np.float32)  # [points, styles, side, side]
    distances = [_dice_distances(shapes[:, style]) for style in range(len(_COMPARED))]
    return tuple(points[row] for row in _greedy(np.min(distances, axis=0)))


def glyph(style: str, point: int, side: int, fill: float) -> Image.Image | None:
    """The glyph's ink as an 8-bit image of `side` x `side`, centred, its longer side `fill` of the square.

    None where the style does not have the code point, or its glyph is blank.
    """
    ink = _rendered(style, point, side)
    box = ink.getbbox() if ink else None
    if ink is None or box is None:
        return None
    from PIL import Image

    scale = fill * side / max(box[2] - box[0], box[3] - box[1])
    width, height = (max(1, round(scale * extent)) for extent in (box[2] - box[0], box[3] - box[1]))
    fitted = ink.resize((width, height), Image.Resampling.BILINEAR, box=box)
    canvas = Image.new("L", (side, side))
    canvas.paste(fitted, ((side - width) // 2, (side - height) // 2))
    return canvas


def _rendered(style: str, point: int, side: int) -> Image.Image | None:
    from PIL import Image

    if point not in _charmap(style):
        return None
    ink = _font(style, side + side // 2).getmask(chr(point), mode="L")
    return Image.frombytes("L", ink.size, bytes(ink)) if all(ink.size) else None


def _dice_distances(shapes: Floats) -> npt.NDArray[np.float32]:
    """1 - Dice overlap between all pairs, at the best shift of at most a pixel: [N, side, side] -> [N, N]."""
    flat = shapes.reshape(len(shapes), -1)  # the scale of the ink cancels out
    area = np.square(flat).sum(axis=1)
    best = np.zeros((len(flat), len(flat)), dtype=np.float32)
    for shift in ((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
        moved = np.roll(shapes, shift, axis=(1, 2)).reshape(len(flat), -1)
        np.maximum(best, 2 * (flat @ moved.T) / (area[:, None] + area[None, :]), out=best)
    return 1 - best


def _greedy(distances: npt.NDArray[np.float32]) -> list[int]:
    """Rows whose distance to every earlier chosen row is at least `_DISTINCT`."""
    chosen: list[int] = []
    for row in range(len(distances)):
        if not chosen or distances[row, chosen].min() >= _DISTINCT:
            chosen.append(row)
    return chosen


def _usable(point: int) -> bool:
    return unicodedata.category(chr(point)) in _CATEGORIES and not any(point in r for r in _BOXES_AND_BRAILLE)


def _shared() -> frozenset[int]:
    return frozenset.intersection(*(_charmap(style) for style in DEJAVU))


@cache
def _charmap(style: str) -> frozenset[int]:
    require("matplotlib", "train")
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(_font_file(style))).get_charmap())


@cache
def _font(style: str, pixels: int) -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(str(_font_file(style)), pixels, layout_engine=ImageFont.Layout.BASIC)


def _font_file(style: str) -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{style}.ttf"


def styles_of(point: int) -> Sequence[str]:
    """The styles that have the code point, in the order of STYLES."""
    return [style for style in STYLES if point in _charmap(style)]
