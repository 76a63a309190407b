"""The comparison as a table and as plain fields: accuracy with its interval, epochs, seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hetero.linear.adaptation import Adaptation, Outcome
from hetero.linear.compatible import CompatibleUpdate, Updated
from hetero.linear.methods import METHODS
from hetero.report.table import Table, Text, row_of
from hetero.retrieval import Estimate, bootstrap

_NOTE = (
    "Accuracy on test images, with its 95 % interval over them. Validation: the same of the images by which "
    "the rate was chosen. Epochs until validation stays within a point of its end. Seconds: one training."
)

_UPDATE_NOTE = (
    "Percent; queries by the student, gallery by the anchor, leave-one-out. Gain: after minus before on the "
    "same queries, with its 95 % interval over classes. The rate was chosen by the cosine on validation "
    "images."
)


def fields(adaptation: Adaptation, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What `--json` prints: numbers, not texts."""
    task = adaptation.task
    return {
        "folder": str(adaptation.folder),
        "classes": task.classes,
        "images": {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        "note": adaptation.source.note(),
        "methods": [_fields(outcome) for outcome in outcomes],
    }


def table(adaptation: Adaptation, outcomes: Sequence[Outcome]) -> Table:
    """One row a method."""
    task, note = adaptation.task, adaptation.source.note()
    learnt, held = len(task.train), len(task.test)
    return Table(
        f"{task.classes} new classes: {learnt} training images, {held} test images",
        _NOTE if note is None else f"{_NOTE} Note: {note}.",
        ("method", "accuracy", "validation", "rate", "epochs", "seconds"),
        tuple(_row(outcome) for outcome in outcomes),
    )


def update_table(update: CompatibleUpdate, found: Sequence[Updated]) -> Table:
    """One row a method: M(student, anchor) before and after, and the gain with its interval."""
    task = update.task
    return Table(
        f"M(student, anchor) on {task.classes} new classes: {len(task.test)} queries, "
        f"{len(task.train)} training images without labels",
        _UPDATE_NOTE,
        ("method", "metric", "before", "after", "gain", "M(anchor, anchor)", "rate", "seconds"),
        tuple(_update_row(each, metric) for each in found for metric in each.before),
    )


def _update_row(each: Updated, metric: str) -> tuple[Text, ...]:
    gain = each.gain(metric).difference
    return row_of(
        each.method,
        metric,
        *(f"{100 * side[metric].mean:.1f}" for side in (each.before, each.after)),
        f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})",
        f"{100 * each.paragon[metric].mean:.1f}",
        f"{each.rate:g}",
        f"{each.curves[each.rate].seconds:.1f}",
    )


def accuracy_of(outcome: Outcome) -> Estimate:
    """On test images, with the bootstrap interval over them."""
    return bootstrap(outcome.correct.values)


def _fields(outcome: Outcome) -> dict[str, Any]:
    found = accuracy_of(outcome)
    return {
        "method": outcome.method,
        "about": METHODS[outcome.method].about,
        "accuracy": {"value": found.value, "low": found.low, "high": found.high},
        "rate": outcome.rate,
        "epochs": outcome.curve.converged(),
        "seconds": outcome.curve.seconds,
        "rates": [
            {"rate": rate, "validation": curve.scores[-1], "seconds": curve.seconds}
            for rate, curve in outcome.curves.items()
        ],
    }


def _row(outcome: Outcome) -> tuple[Text, ...]:
    found, curve = accuracy_of(outcome), outcome.curve
    return row_of(
        outcome.method,
        f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})",
        f"{100 * curve.scores[-1]:.1f}",
        f"{outcome.rate:g}",
        "-" if METHODS[outcome.method].form == "head" else str(curve.converged()),
        f"{curve.seconds:.1f}",
    )
