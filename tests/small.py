"""A recipe that is carried out in seconds: pairs for `resolve`."""

from __future__ import annotations

from typing import Literal


def small(
    anchor: Literal["elastic-xs", "residual-s"], *, steps: int = 3, batch: int = 8, views: int = 2
) -> tuple[str, ...]:
    """16 px, spaces of 16 dimensions, a few steps for the anchor and for the student, an elastic-xs."""
    one_block = ("anchor.network.widths=[8]", "anchor.network.depths=[1]")
    return (
        "data.size=16",
        "data.validation_share=0",
        f"anchor.network={anchor}",
        *(one_block if anchor == "residual-s" else ()),
        "anchor.network.dim=16",
        "anchor.fit.precision=fp32",
        "student.network=elastic-xs",
        "student.network.dim=16",
        f"student.views={views}",
        *(f"{part}.fit.{k}" for part in ("anchor", "student") for k in (f"steps={steps}", f"batch={batch}")),
    )
