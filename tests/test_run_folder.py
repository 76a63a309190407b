"""A run's folder holds what one recipe made."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetero.recipes.resolve import resolve
from hetero.runs import Run
from hetero_devices.errors import ModelError, RecipeError
from hetero_devices.files import read_json


def test_a_recipe_that_failed_at_its_first_step_may_be_corrected(tmp_path: Path) -> None:
    mistaken = Run.open(tmp_path, resolve("demo", ["anchor.source=nope"]))
    with pytest.raises(ModelError, match="'nope' is neither"):
        _ = mistaken.anchor
    corrected = Run.open(tmp_path, resolve("demo", ["anchor.source=train"]))
    assert (
        corrected.recipe.anchor.source == read_json(tmp_path / "recipe.json")["anchor"]["source"] == "train"
    )


def test_what_one_recipe_made_is_not_continued_by_another(tmp_path: Path) -> None:
    Run.open(tmp_path, resolve("demo", []))
    (tmp_path / "anchor").mkdir()
    with pytest.raises(RecipeError, match=r"another recipe \(differs in student.fit.steps\)"):
        Run.open(tmp_path, resolve("demo", ["student.fit.steps=3"]))
    assert read_json(tmp_path / "recipe.json")["student"]["fit"]["steps"] == 1400
    Run.open(tmp_path, resolve("demo", ["search.settle=7"]))  # a search minds its own settings
