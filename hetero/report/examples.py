"""A picture of searches: each query with what was found for it, right and wrong told apart."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from hetero.data.imageset import ImageSet
from hetero.report.model import Figure
from hetero.retrieval import Hits

_RIGHT, _WRONG, _QUERY = (34, 139, 84), (200, 60, 50), (90, 90, 90)
_CELL, _GAP, _BORDER, _HEADING = 56, 6, 3, 16


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


def flips_figure(
    title: str, query: ImageSet, old: tuple[ImageSet, Hits], new: tuple[ImageSet, Hits], total: int
) -> Figure:
    """One query a row: the image, what the old system finds first, and what the new one does.

    old, new: the gallery's images, and its rows for every image of `query`; total: how many queries flip,
    of which these are shown.
    """
    shown = min(5, old[1].rows.shape[1], new[1].rows.shape[1])
    block = shown * (_CELL + _GAP) + 3 * _GAP
    width, height = _CELL + _GAP + 2 * block + _GAP, _CELL + _GAP
    sheet = Image.new("RGB", (width, len(query) * height + _HEADING + _GAP), "white")
    for x, words in ((_GAP, "query"), (_CELL + 4 * _GAP, "old"), (_CELL + 4 * _GAP + block, "new")):
        ImageDraw.Draw(sheet).text((x, 2), words, fill=_QUERY)
    for row in range(len(query)):
        top = _HEADING + row * height
        _paste(sheet, query.images[row], _GAP, top, _QUERY)
        for place, (gallery, hits) in enumerate((old, new)):
            left = _CELL + 4 * _GAP + place * block
            _results(sheet, gallery, hits.rows[row, :shown], int(query.labels[row]), (left, top))
    words = f"{len(query)} of {total} negative flips: the query, the old system's first {shown} results, the "
    return Figure.of(title, f"{words}new system's; wrong ones are crossed out", _png(sheet))


def _results(
    sheet: Image.Image, gallery: ImageSet, rows: npt.NDArray[np.int64], label: int, corner: tuple[int, int]
) -> None:
    left, top = corner
    for column, hit in enumerate(rows[rows >= 0]):
        right = bool(gallery.labels[hit] == label)
        x = left + column * (_CELL + _GAP)
        _paste(sheet, gallery.images[hit], x, top, _RIGHT if right else _WRONG, crossed=not right)


def named_figure(title: str, words: str, images: ImageSet, captions: Sequence[str]) -> Figure:
    """Images with a line of text to the right of each, two columns. words: the alternative text."""
    columns, wide = 2, 5 * (_CELL + _GAP)
    lines = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * wide, lines * (_CELL + _GAP) + _GAP), "white")
    for place, caption in enumerate(captions):
        left, top = (place // lines) * wide + _GAP, (place % lines) * (_CELL + _GAP) + _GAP
        _paste(sheet, images.images[place], left, top, _QUERY)
        ImageDraw.Draw(sheet).multiline_text((left + _CELL + _GAP, top), caption, fill=(30, 30, 30))
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
