"""A titled table of texts: what every writer of the report lays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Tone = Literal["plain", "good", "bad"]


@dataclass(frozen=True)
class Text:
    """The text of one cell; `tone` lets a writer colour what the text already says."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Table:
    """rows[i] has one entry for each of `columns`; columns[0] names the row. note: how to read it."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]


def row_of(*texts: str) -> tuple[Text, ...]:
    """A row of plain texts."""
    return tuple(Text(text) for text in texts)
