"""What `objectives.py` compares: candidates, and four settings of each to choose from on validation classes.

Every candidate gets the same number of trainings. Where it has constants worth choosing, two values of them
meet two learning rates; where it has none, four learning rates. Rates are high because trainings are short.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from hetero.objectives.terms import TermConfig

SETTINGS = 4
_objective: TypeAdapter[tuple[TermConfig, ...]] = TypeAdapter(tuple[TermConfig, ...])


@dataclass(frozen=True)
class Setting:
    """An objective and a factor on the data set's learning rate."""

    objective: tuple[TermConfig, ...]
    rate: float

    @property
    def digest(self) -> str:
        """16 hex digits that name the setting: its folder, its cells."""
        terms = [term.model_dump(mode="json") for term in self.objective]
        return hashlib.sha256(json.dumps([terms, self.rate], sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        terms = [f"{t.weight:g} {t.term}{_changed(t)}" for t in self.objective]
        return f"{' + '.join(terms)}, rate x{self.rate:g}"

    @property
    def control(self) -> bool:
        """Whether nothing but controls is in it."""
        return all(term.control for term in self.objective)


def _changed(term: TermConfig) -> str:
    own = {
        k: getattr(term, k)
        for k, field in type(term).model_fields.items()
        if k not in ("term", "weight") and getattr(term, k) != field.default
    }
    shown = {k: v if isinstance(v, str) else f"{v:g}" for k, v in own.items()}
    return f"({', '.join(f'{k}={v}' for k, v in shown.items())})" if own else ""


def _line(term: str, **fields: Any) -> dict[str, Any]:
    return {"term": term, **fields}


def _rates(*terms: dict[str, Any]) -> tuple[Setting, ...]:
    objective = _objective.validate_python(terms)
    return tuple(Setting(objective, rate) for rate in (1.0, 2.0, 3.0, 4.0))


def _pairs(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> tuple[Setting, ...]:
    objectives = [_objective.validate_python(terms) for terms in (first, second)]
    return tuple(Setting(objective, rate) for objective in objectives for rate in (2.0, 3.0))


def _single(term: str, **other: Any) -> tuple[Setting, ...]:
    """The published constants against one change of them."""
    return _pairs([_line(term)], [_line(term, **other)])


def _beside(main: str, term: str, low: float, high: float) -> tuple[Setting, ...]:
    """A second term at two weights."""
    return _pairs(*([_line(main), _line(term, weight=weight)] for weight in (low, high)))


BASELINE = "regression"

CANDIDATES: dict[str, tuple[Setting, ...]] = {
    BASELINE: _rates(_line("regression")),
    "l2_regression": _rates(_line("l2_regression")),
    "prefix_regression": _rates(_line("prefix_regression")),
    "d3still": _single("d3still", alpha=100.0, beta=5.0),
    "raml": _single("raml", cross=5.0, inner=5.0),
    "csd": _single("csd", student_temperature=0.05, temperature=0.05, bank=4096),
    "rop": _single("rop", bank=4096),
    "ssp": _single("ssp", scale=20.0),
    "ugd": _single("ugd", beta=1.0),
    "info_nce": _single("info_nce", temperature=0.03),
    "cross_supcon": _single("cross_supcon", temperature=0.1),
    "ract": _single("ract", temperature=0.05),
    "aml_contrastive": _single("aml_contrastive", margin=1.0),
    "aml_triplet": _single("aml_triplet", margin=0.5),
    "frozen_head": _single("frozen_head", margin=0.2),
    "synthesised_head": _single("synthesised_head", margin=0.2),
    "soft_head": _single("soft_head", scale=8.0),
    "composite_head": _single("composite_head", scale=24.0),
    "lce": _single("lce", boundary=10.0),
    "elastic_boundary": _beside("margin_softmax", "elastic_boundary", 1.0, 10.0),
    "mixed": _single("mixed", scale=24.0, margin=0.2),
    "hoc": _single("hoc", share=0.5),
    "basis": _single("basis", pseudo=1.0),
    "regression + frozen_head": _beside("regression", "frozen_head", 0.02, 0.1),
    "regression + synthesised_head": _beside("regression", "synthesised_head", 0.02, 0.1),
    "regression + soft_head": _beside("regression", "soft_head", 0.05, 0.5),
    "regression + info_nce": _beside("regression", "info_nce", 0.02, 0.1),
    "regression + cross_supcon": _beside("regression", "cross_supcon", 0.02, 0.1),
    "regression + csd": _beside("regression", "csd", 0.1, 1.0),
    "d3still + frozen_head": _beside("d3still", "frozen_head", 0.1, 1.0),
    "raw_mse": _rates(_line("raw_mse")),
    "rkd": _single("rkd", angle=25.0),
    "pkt": _single("pkt", weight=3000.0),
    "logits": _single("logits", temperature=4.0),
}

assert all(len(settings) == SETTINGS for settings in CANDIDATES.values())
