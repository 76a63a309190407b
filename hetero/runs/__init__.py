"""A run: one directory in which a recipe is carried out, stage by stage, and can be continued at any time."""

from hetero.runs.run import Run

__all__ = ["Run"]
