"""A picture of searches: each query with what was found for it, right and wrong told apart."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hetero.data.imageset import ImageSet
from hetero.report.model import Figure
from hetero.retrieval import Hits

_RIGHT, _WRONG, _QUERY = (34, 139, 84), (200, 60, 50), (90, 90, 90)
_CELL, _GAP, _BORDER = 56, 6, 3


def examples_figure(title: str, query: ImageSet, gallery: ImageSet, hits: Hits, seed: int = 0) -> Figure:
    """Eight queries a column, two columns, first results to the right; a wrong result is crossed out.

    hits: rows of `gallery` for every image of `query`, at least one column.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(query))[:16])
    shown = min(5, hits.rows.shape[1])
    width, height = (shown + 1) * (_CELL + _GAP) + 3 * _GAP, (_CELL + _GAP)
    sheet = Image.new("RGB", (2 * width, 8 * height + _GAP), "white")
    for place, row in enumerate(chosen):
        left, top = (place // 8) * width + _GAP, (place % 8) * height + _GAP
        _paste(sheet, query.images[row], left, top, _QUERY)
        for column, hit in enumerate(hits.rows[row, :shown]):
            right = bool(gallery.labels[hit] == query.labels[row])
            x = left + (column + 1) * (_CELL + _GAP) + 2 * _GAP
            _paste(sheet, gallery.images[hit], x, top, _RIGHT if right else _WRONG, crossed=not right)
    words = f"{len(chosen)} random queries, each with its first {shown} results; wrong ones are crossed out"
    return Figure.of(title, words, _png(sheet))


def _paste(
    sheet: Image.Image,
    image: npt.NDArray[np.uint8],
    x: int,
    y: int,
    colour: tuple[int, ...],
    crossed: bool = False,
) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rectangle([x, y, x + _CELL - 1, y + _CELL - 1], fill=colour)
    inner = _CELL - 2 * _BORDER
    sheet.paste(Image.fromarray(image).resize((inner, inner)), (x + _BORDER, y + _BORDER))
    if crossed:
        draw.line([x, y + _CELL - 1, x + _CELL - 1, y], fill=colour, width=2)


def _png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
