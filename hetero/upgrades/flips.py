"""What an update breaks: flips between two systems as a report with the flipped queries' pictures."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hetero.data.imageset import ImageSet
from hetero.report import Figure, Gate, Report, wording
from hetero.report.examples import flips_figure, named_figure
from hetero.report.table import Table, row_of
from hetero.retrieval import (
    RECALL_AT_1,
    ClassFlips,
    Flips,
    Hits,
    PerQuery,
    bootstrap,
    evaluate,
    flips,
    flips_by_class,
    negative_flips,
    search,
)
from hetero.retrieval.metrics import display_name
from hetero.upgrades.classifier import accuracy, answers
from hetero.upgrades.pictures import TestImages, pictures_of
from hetero.upgrades.systems import System, Wanted, open_system, own_images
from hetero_devices.errors import DataError

_SHOWN = 16  # flipped queries in the picture
_TOP = 5
_CLASSES = 30  # rows of the table by class


@dataclass(frozen=True)
class FlipGate:
    """max_nfr: the largest negative flip rate, a share; by_interval: the upper end of its interval counts."""

    max_nfr: float | None = None
    by_interval: bool = False


def compare(
    old: Wanted,
    new: Wanted,
    work: Path,
    *,
    images: TestImages | None = None,
    metric: str = RECALL_AT_1,
    classify: bool = False,
    by_class: bool = True,
    gate: FlipGate | None = None,
    seed: int = 0,
) -> Report:
    """The report of an update from `old` to `new` over the same queries.

    images: the test images; by default those of the side that is a run. metric: recall@K, of which the
    success bits are compared; classify: compare named classes instead. by_class: intervals resample classes,
    since queries of one class share gallery images. work: a folder for finished shards of devices.
    Raises DataError when the two sides have other queries, SpaceMismatch when one mixes spaces.
    """
    images = images or own_images(old) or own_images(new)
    systems = [open_system(side, images, work, classify=classify) for side in (old, new)]
    if classify:
        assert images is not None  # a head is only opened where there are some
        return _classified(systems, images, by_class, gate or FlipGate(), seed)
    bits = [_success(system, metric) for system in systems]
    figure = _searches(systems, bits, images) if images else ()
    return _report(
        systems, bits, figure, by_class, gate or FlipGate(), seed, _class_names(systems[0], images)
    )


def _class_names(system: System, images: TestImages | None) -> Sequence[str] | None:
    """By label, where the embedded queries are images whose classes have names."""
    if images is None or pictures_of(system.query, images.shown.query) is None:
        return None
    return images.shown.query.class_names


def _success(system: System, metric: str) -> PerQuery:
    assert system.gallery is not None
    return evaluate(system.query, system.gallery).per_query(metric)


def _report(
    systems: Sequence[System],
    bits: Sequence[PerQuery],
    figures: Sequence[Figure],
    by_class: bool,
    gate: FlipGate,
    seed: int,
    names: Sequence[str] | None,
) -> Report:
    """names: of the classes by label, where they are known."""
    old, new = bits
    clusters = old.labels if by_class else None
    found, classes = flips(old, new, clusters=clusters, seed=seed), flips_by_class(old, new)
    space = (systems[1].gallery or systems[1].query).space
    return Report(
        title=f"Flips: {systems[0].name} → {systems[1].name}",
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        space=space,
        summary=f"{wording.percent(found.nfr.value, 2)} % of the queries were right and are wrong now",
        sentences=_sentences(found, old, new),
        tables=(_overall(found, bits, clusters, seed), _classes(classes, names)),
        gates=_gates(found, gate),
        figures=tuple(figures),
        values=_values(found, classes, bits, systems, names),
    )


def _sentences(found: Flips, old: PerQuery, new: PerQuery) -> tuple[str, ...]:
    negative, positive = (round(rate.value * len(old.values)) for rate in (found.nfr, found.pfr))
    change = "no change beyond chance" if found.p_value >= 0.05 else "a change beyond chance"
    return (
        f"Of {len(old.values)} queries {negative} flip to wrong and {positive} to right: {change} of "
        f"{display_name(old.metric)} (McNemar's exact test, p = {wording.quantity(found.p_value)}).",
        f"Were errors independent, {wording.percent(old.mean * (1 - new.mean), 2)} % would flip to wrong; "
        f"relative to that the rate is {_number(found.relative_nfr)}.",
    )


def _number(value: float) -> str:
    """Three digits, or a dash where the new system errs nowhere, so that nothing can be relative to it."""
    return wording.quantity(None if math.isnan(value) else value)


def _overall(found: Flips, bits: Sequence[PerQuery], clusters: Any, seed: int) -> Table:
    old, new = (bootstrap(each.values, clusters=clusters, seed=seed) for each in bits)
    name = display_name(bits[0].metric)
    rows = (
        row_of(f"{name}, old", wording.scored(old)),
        row_of(f"{name}, new", wording.scored(new)),
        row_of("Negative flip rate (NFR)", wording.scored(found.nfr)),
        row_of("Positive flip rate (PFR)", wording.scored(found.pfr)),
        row_of("Relative NFR", _number(found.relative_nfr)),
        row_of("New errors that are negative flips (NFI)", _number(100 * found.nfi)),
        row_of("McNemar's exact p", wording.quantity(found.p_value)),
    )
    note = "Rates in percent, with 95 % interval. Relative NFR is 1 where the two systems err independently."
    return Table("Flips", note, ("what", "value"), rows)


def _classes(classes: Sequence[ClassFlips], names: Sequence[str] | None) -> Table:
    worst = sorted((c for c in classes if c.negative), key=lambda c: (-c.nfr, -c.negative, c.label))
    rows = tuple(
        row_of(
            names[each.label] if names else str(each.label),
            str(each.queries),
            wording.percent(each.old_right / each.queries),
            wording.percent(each.new_right / each.queries),
            str(each.negative),
            str(each.positive),
            wording.percent(each.nfr),
            wording.quantity(each.p_value),
        )
        for each in worst[:_CLASSES]
    )
    note = (
        f"{len(worst)} of {len(classes)} classes have negative flips; the {len(rows)} of the highest rate. "
        "p: McNemar's exact test inside the class; among many classes some are small by chance."
    )
    columns = ("class", "queries", "old %", "new %", "flips −", "flips +", "NFR %", "p")
    return Table("Flips by class", note, columns, rows)


def _gates(found: Flips, gate: FlipGate) -> tuple[Gate, ...]:
    if gate.max_nfr is None:
        return ()
    value = found.nfr.high if gate.by_interval else found.nfr.value
    name = "negative flips, upper end of the interval" if gate.by_interval else "negative flips"
    return (Gate.check(name, value, "<=", gate.max_nfr, f"NFR {wording.scored(found.nfr)} %"),)


def _values(
    found: Flips,
    classes: Sequence[ClassFlips],
    bits: Sequence[PerQuery],
    systems: Sequence[System],
    names: Sequence[str] | None,
) -> dict[str, Any]:
    """The numbers for programs; NaN, which JSON lacks, is null."""
    rates = ("relative_nfr", "nfi")
    undefined = {name: None for name in rates if math.isnan(getattr(found, name))}
    numbers = asdict(found) | undefined
    return {
        "metric": bits[0].metric,
        "old": {"name": systems[0].name, "score": bits[0].mean},
        "new": {"name": systems[1].name, "score": bits[1].mean},
        "queries": len(bits[0].values),
        "flips": numbers,
        "by_class": [asdict(each) | ({"name": names[each.label]} if names else {}) for each in classes],
        "negative_query_ids": negative_flips(*bits).tolist(),
        "positive_query_ids": negative_flips(*reversed(bits)).tolist(),
    }


def _chosen(ids: np.ndarray[Any, np.dtype[np.int64]], query: ImageSet) -> ImageSet:
    """At most `_SHOWN` of the queries with these ids, evenly taken."""
    rows = np.flatnonzero(np.isin(query.ids, ids))
    places = np.unique(np.linspace(0, len(rows) - 1, min(_SHOWN, len(rows))).round().astype(np.int64))
    return query.select(rows[places])


def _searches(systems: Sequence[System], bits: Sequence[PerQuery], images: TestImages) -> Sequence[Figure]:
    """The flipped queries with what both systems find first; nothing where an image is not at hand."""
    sides = images.shown
    ids = negative_flips(*bits)
    queries, galleries = pictures_of(systems[0].query, sides.query), []
    for system in systems:
        assert system.gallery is not None
        galleries.append(pictures_of(system.gallery, sides.gallery))
    if not len(ids) or queries is None or None in galleries:
        return ()
    chosen = _chosen(ids, queries)
    old, new = (
        (gallery, _found(system, chosen))
        for system, gallery in zip(systems, galleries, strict=True)
        if gallery is not None
    )
    return (flips_figure("Queries that were right and are wrong now", chosen, old, new, len(ids)),)


def _found(system: System, chosen: ImageSet) -> Hits:
    assert system.gallery is not None
    place = {image: row for row, image in enumerate(system.query.ids.tolist())}
    rows = np.array([place[image] for image in chosen.ids.tolist()], np.int64)
    return search(system.query.select(rows), system.gallery, _TOP)


def _classified(
    systems: Sequence[System], images: TestImages, by_class: bool, gate: FlipGate, seed: int
) -> Report:
    query = images.shown.query
    named = [_named(system, query) for system in systems]
    bits = [accuracy(each, query) for each in named]
    figure = _answers(query, named, negative_flips(*bits))
    return _report(systems, bits, figure, by_class, gate, seed, query.class_names)


def _named(system: System, query: ImageSet) -> list[str]:
    assert system.head is not None
    if not np.array_equal(system.query.ids, query.ids):
        raise DataError(
            f"{system.name} embeds other images than the queries: embed the same source and split"
        )
    if not set(system.head.classes) & set(query.class_names):
        raise DataError(f"{system.name} names none of the classes of the queries, so none can be right")
    return answers(system.head.logits(np.asarray(system.query.vectors)), system.head.classes)


def _answers(
    query: ImageSet, named: Sequence[list[str]], ids: np.ndarray[Any, np.dtype[np.int64]]
) -> Sequence[Figure]:
    if not len(ids):
        return ()
    chosen = _chosen(ids, query)
    place = {image: row for row, image in enumerate(query.ids.tolist())}
    captions = []
    for image in chosen.ids.tolist():
        old, new = (each[place[image]] for each in named)
        captions.append(f"old: {old}, right\nnew: {new}")
    title = "Images whose class was named right and is not any more"
    words = f"{len(chosen)} of {len(ids)} negative flips, each with both answers: {'; '.join(captions)}"
    return (named_figure(title, words.replace("\n", ", "), chosen, captions),)
