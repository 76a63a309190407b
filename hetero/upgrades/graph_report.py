"""The full graph as one report: matrices, a line for every pair of versions, and each role's series."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hetero.report import Gate, Report, wording
from hetero.report.table import Table, Text, Tone, row_of
from hetero.retrieval import MAP, RECALL_AT_1
from hetero.upgrades.graph import CLOUD, Graph, Link, Series

_VERDICTS: dict[str, tuple[str, Tone]] = {
    "holds": ("✓ holds", "good"),
    "fails": ("✗ fails", "bad"),
    "unproven": ("? unproven", "plain"),
}


def graph_report(found: Graph, *, gate: bool = False) -> Report:
    """gate: every link between two versions becomes a gate."""
    holding = sum(link.verdict == "holds" for link in found.links)
    return Report(
        title=f"hetero: the graph of {', '.join(found.crossed.galleries)}",
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        space=found.space,
        summary=f"{holding} of {len(found.links)} links between versions hold",
        sentences=_sentences(found),
        tables=(_links(found.links), _series(found)),
        matrices=tuple(found.crossed.matrix(metric, by_class=True) for metric in (RECALL_AT_1, MAP)),
        gates=tuple(map(_gate, found.links)) if gate else (),
        values=_values(found),
    )


def _sentences(found: Graph) -> tuple[str, ...]:
    """The two questions of an upgrade in the field, each answered over all phones."""
    phones = [link for link in found.links if link.role != CLOUD]
    questions = {
        True: "New phone models in old galleries beat the old ones there",
        False: "Old phone models work in new galleries as well as before",
    }
    sentences = []
    for forward, question in questions.items():
        mine = [link.verdict for link in phones if link.forward == forward]
        if mine:
            sentences.append(
                f"{question}: {mine.count('holds')} of {len(mine)} links, {mine.count('fails')} fail."
            )
    return tuple(sentences)


def _links(links: Sequence[Link]) -> Table:
    note = (
        "Recall@1, points with 95 % interval. New query in an old gallery: against the old query there (the "
        "compatibility criterion: above 0). Old query in a new gallery: against its own gallery (as good: "
        "above the tolerated loss). NFR: queries the replaced search answered and this one does not."
    )
    rows = tuple(
        (
            *row_of(
                f"{link.role}: query {link.query} → gallery {link.gallery}",
                f"query {link.gallery if link.forward else link.query}, "
                f"gallery {link.gallery if link.forward else link.query}",
                wording.points(link.comparison.difference),
            ),
            Text(*_VERDICTS[link.verdict]),
            *row_of(f"{wording.scored(link.flips.nfr)}", wording.quantity(link.comparison.p_value)),
        )
        for link in links
    )
    columns = ("link", "against", "difference, points", "verdict", "NFR %", "p")
    return Table("Links between versions", note, columns, rows)


def _series(found: Graph) -> Table:
    rows = tuple(
        row_of(
            each.role,
            wording.quantity(each.ac),
            wording.percent(each.aa),
            _by_version(each.gain),
            _by_version(each.tax),
        )
        for each in found.series
    )
    note = (
        "AC: share of newer/older pairs that beat the older model on its own gallery, by value. AA: mean "
        "over all pairs that occur. Gain: of each update, the share of what re-embedding would bring, by the "
        "paragon where the version has one. Tax: paragon minus the model on its own gallery."
    )
    return Table("Over all versions", note, ("role", "AC", "AA %", "update gain %", "tax, points"), rows)


def _by_version(values: Any) -> str:
    told = (f"{name}: {wording.NONE if v is None else wording.percent(v)}" for name, v in values.items())
    return ", ".join(told) or wording.NONE


def _gate(link: Link) -> Gate:
    low, name = link.comparison.difference.low, f"{link.role}: query {link.query}, gallery {link.gallery}"
    detail = f"difference {wording.points(link.comparison.difference)} points"
    if link.forward:
        return Gate.check(name, low, ">", 0.0, detail)
    return Gate.check(name, low, ">=", -link.max_loss, detail)


def _values(found: Graph) -> dict[str, Any]:
    """The numbers for programs; an undefined rate is null."""
    return {
        "links": [_plain(asdict(link)) | {"verdict": link.verdict} for link in found.links],
        "series": [_of_series(each) for each in found.series],
    }


def _of_series(each: Series) -> dict[str, Any]:
    fields = {"role": each.role, "average_compatibility": each.ac, "average_accuracy": each.aa}
    return fields | {"scores": each.scores.tolist(), "gain": dict(each.gain), "tax": dict(each.tax)}


def _plain(value: Any) -> Any:
    """NaN, which JSON lacks, as null, at any depth of dicts."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and value != value else value
