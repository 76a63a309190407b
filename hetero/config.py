"""The base of every configuration object: typed, immutable, and strict about unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen; unknown keys are refused; `model_dump(mode="json")` is what a run directory records."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
