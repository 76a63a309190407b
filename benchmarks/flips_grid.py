"""What `flips.py` compares: methods, and the settings of each to choose from on validation images.

The published constants stand in every method's first setting; the others change the weight of the term that
is to prevent flips, since that depends on the scale of the logits. `references` says which further models a
term asks.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

NO_TREATMENT = "no treatment"
Terms = tuple[dict[str, Any], ...]

CLASSIFIERS: dict[str, tuple[Terms, ...]] = {
    NO_TREATMENT: (({"term": "margin_softmax", "margin": 0.0},),),
    "PCT-naive": tuple(({"term": "pct_naive", "again": again},) for again in (1.0, 4.0)),
    "FD-KL": tuple(({"term": "focal_kl", "distil": w},) for w in (1.0, 0.1, 0.01)),
    "FD-LM": tuple(({"term": "focal_lm", "distil": w},) for w in (0.4, 0.04, 0.01)),
    "logit distillation": tuple(({"term": "focal_lm", "distil": w, "beta": 0.0},) for w in (1.0, 0.1)),
    "LDI": tuple(({"term": "ldi", "share": share},) for share in (0.5, 0.1)),
    "ELODI": tuple(({"term": "elodi", "share": s, "references": "all"},) for s in (0.8, 0.2)),
    "ELODI top-10": tuple(
        ({"term": "elodi", "share": s, "top": 10, "references": "all"},) for s in (0.8, 0.2)
    ),
    "MPT": tuple(
        ({"term": "mpt", "bias": bias, "distil": w, "references": "one"},)
        for bias, w in ((4.0, 1.0), (2.0, 0.3), (4.0, 0.3))
    ),
}
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Of the old weights, for interpolation."""

OWN = {"term": "margin_softmax"}
RETRIEVAL: dict[str, tuple[Terms, ...]] = {
    "regression": tuple(({"term": "regression", "weight": w}, OWN) for w in (3.0, 12.0)),
    "focal regression": tuple(({"term": "focal_regression", "weight": w}, OWN) for w in (0.5, 2.0, 8.0)),
    "contrast": tuple(({"term": "cross_supcon", "weight": w}, OWN) for w in (1.0, 4.0)),
    "focal contrast": tuple(({"term": "focal_contrast", "weight": w}, OWN) for w in (0.2, 0.7, 2.8)),
}
BASELINE = "regression"
INDEPENDENT = "independent"


@dataclass(frozen=True)
class Setting:
    """The terms of one training; `references` in them is a word, see `Bench.objective`."""

    terms: Terms

    @property
    def digest(self) -> str:
        """16 hex digits that name the setting: its folder, its cells."""
        return hashlib.sha256(json.dumps(self.terms, sort_keys=True).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return " + ".join(
            " ".join([str(t["term"]), *(f"{k} {v}" for k, v in t.items() if k not in ("term", "references"))])
            for t in self.terms
        )
