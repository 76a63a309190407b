"""What `hetero bench` runs: a run with its own test protocol, or a bundle with what it is given."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hetero.models.encoder import embed
from hetero.recipes.recipe import Recipe
from hetero.recipes.resolve import overridden, resolve
from hetero.runs.bundle_gates import Search
from hetero.runs.run import Run
from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.errors import BundleError


@dataclass(frozen=True)
class BenchSource:
    """recipe: whose `gates` and `measure` apply. search: None where there is nothing to search."""

    bundle: Bundle
    recipe: Recipe
    search: Search | None

    @classmethod
    def of_run(cls, folder: Path, overrides: Sequence[str] = ()) -> BenchSource:
        """The run's bundle, its test queries, the anchor's gallery, and the student in torch as reference."""
        run = Run.existing(folder)
        query, gallery = run.test.query, run.anchor.embed("test", run.test.gallery)
        search = Search(query, gallery, embed(run.student.encoder, query))
        return cls(Bundle.open(folder / "bundle"), _changed(run.recipe, overrides), search)

    @classmethod
    def of_bundle(
        cls, bundle: Bundle, recipe: str, overrides: Sequence[str] = (), search: Search | None = None
    ) -> BenchSource:
        """A bundle with the gates of a named recipe or YAML file."""
        return cls(bundle, _changed(resolve(recipe), overrides), search)

    def limited(self, count: int | None) -> BenchSource:
        """With only `count` queries, evenly taken from all of them."""
        if count is None or self.search is None or count >= len(self.search.images):
            return self
        images, reference = self.search.images, self.search.reference
        rows = np.linspace(0, len(images) - 1, count).round().astype(np.int64)
        part = replace(
            self.search, images=images.select(rows), reference=reference.select(rows) if reference else None
        )
        return replace(self, search=part)

    def models(self, formats: Collection[str], precisions: Collection[str]) -> tuple[ModelFile, ...]:
        """Those in these formats and precisions (empty: any); BundleError when there is none."""
        found = tuple(
            model
            for model in self.bundle.manifest.models
            if (not formats or model.format in formats) and (not precisions or model.precision in precisions)
        )
        if not found:
            there = ", ".join(f"{model.format} {model.precision}" for model in self.bundle.manifest.models)
            raise BundleError(f"the bundle has no such model: it has {there}")
        return found


def _changed(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    for pair in overrides:
        recipe = overridden(recipe, [pair], "measure" if pair.startswith("measure.") else "gates")
    return recipe
