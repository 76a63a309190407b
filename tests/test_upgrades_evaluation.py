"""The verdict on upgrades and chains, against numbers worked out by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hetero.recipes.resolve import resolve
from hetero.retrieval import MAP, PerQuery, gain_or_none
from hetero.runs import Run
from hetero.runs.sides import Sides
from hetero.upgrades.chain import evaluate_chain, tax_growth
from hetero.upgrades.evaluation import UpgradeScores, evaluate_run, evaluate_upgrade, verdict
from hetero_devices.errors import DataError, SpaceMismatch
from hetero_devices.space import Embeddings, Space

SPACE, OWN = Space("0" * 16, 3), Space("1" * 16, 3)


def bits(values: list[int]) -> PerQuery:
    ids = np.arange(len(values))
    return PerQuery("recall@1", ids, ids % 2, np.array(values, np.float64))


def test_a_verdict_by_hand() -> None:
    """old/old 0.4, new/old 0.6, paragon 0.9, new/new 0.8; one flip each way plus two gains."""
    scores = UpgradeScores(
        old_old=bits([1, 1, 1, 1, 0, 0, 0, 0, 0, 0]),
        new_old=bits([0, 1, 1, 1, 1, 1, 1, 0, 0, 0]),
        new_new=bits([1, 1, 1, 1, 1, 1, 1, 1, 0, 0]),
        paragon=bits([1, 1, 1, 1, 1, 1, 1, 1, 1, 0]),
    )
    found = verdict(scores, by_class=False)
    assert found.gain == pytest.approx(0.2 / 0.5)
    assert found.tax == pytest.approx(0.1)
    assert found.flips is not None
    assert found.flips.nfr.value == pytest.approx(0.1)
    assert found.flips.pfr.value == pytest.approx(0.3)
    assert found.criterion.comparison.difference.value == pytest.approx(0.2)
    assert not found.criterion.holds  # ten queries prove nothing
    assert json.loads(json.dumps(found.to_json()))["criterion"]["holds"] is False


def test_without_a_paragon_there_is_no_share_of_it() -> None:
    found = verdict(UpgradeScores(*[bits([1, 0])] * 3))
    assert (found.paragon, found.gain, found.tax) == (None, None, None)
    assert gain_or_none(new_old=0.5, old_old=0.6, paragon=0.6) is None
    assert gain_or_none(new_old=0.5, old_old=0.4, paragon=float("nan")) is None


def sides(angles: list[float], space: Space = SPACE) -> Sides:
    """Vectors at these angles, two images a class, on both sides."""
    vectors = np.stack([np.cos(angles), np.sin(angles), np.zeros(len(angles))], 1).astype(np.float32)
    ids = np.arange(len(angles))
    both = Embeddings(vectors, ids, ids // 2, space)
    return Sides(both, both)


GOOD = [0.0, 0.1, 1.0, 1.1, 2.0, 2.1]
WORSE = [0.0, 0.1, 1.0, 1.6, 2.0, 2.1]  # image 3 lies nearer to image 4 than to its twin


def test_an_upgrade_from_embeddings() -> None:
    found = evaluate_upgrade(sides(WORSE), sides(GOOD), sides(GOOD, OWN))
    assert found.old_old.value == pytest.approx(5 / 6)
    assert (found.new_new.value, found.tax) == (1.0, 0.0)
    assert found.gain is not None
    maps = evaluate_upgrade(sides(WORSE), sides(GOOD), metric=MAP)
    assert maps.flips is None
    with pytest.raises(SpaceMismatch):
        evaluate_upgrade(sides(WORSE), sides(GOOD, OWN))


def test_a_chain_by_hand() -> None:
    found = evaluate_chain(
        {"v1": sides(WORSE), "v2": sides(GOOD), "v3": sides(WORSE)}, {"v3": sides(GOOD, OWN)}
    )
    assert np.diag(found.matrix.scores()) == pytest.approx([5 / 6, 1, 5 / 6])
    scores = found.matrix.scores()
    newer = [scores[1, 0] > scores[0, 0], scores[2, 0] > scores[0, 0], scores[2, 1] > scores[1, 1]]
    assert found.ac == pytest.approx(np.mean(newer))
    assert found.aa == pytest.approx(scores[np.tril_indices(3)].mean())
    assert found.taxes[0] == 0  # the first is its own paragon
    assert np.isnan(found.taxes[1])
    assert found.taxes[2] == pytest.approx(1 / 6)
    assert found.tax_growth == pytest.approx(1 / 12)
    assert found.gains[:2] == (None, None)


def test_tax_growth_passes_over_what_is_unknown() -> None:
    assert tax_growth((0.0, float("nan"), 0.03)) == pytest.approx(0.015)
    assert np.isnan(tax_growth((0.1,)))


def test_chains_that_are_none() -> None:
    with pytest.raises(DataError, match="are no chain"):
        evaluate_chain({"v1": sides(GOOD)})
    with pytest.raises(DataError, match="paragon of 'v9'"):
        evaluate_chain({"v1": sides(GOOD), "v2": sides(GOOD)}, {"v9": sides(GOOD)})
    with pytest.raises(SpaceMismatch, match="query model 'v1'"):
        evaluate_chain({"v1": sides(GOOD), "v2": sides(GOOD, OWN)})


def test_the_recipe_for_upgrades_trains_and_is_judged(arrays: Path, tmp_path: Path) -> None:
    """A run of the built-in recipe, from a run of fewer classes, and the command that judges it."""
    small = (
        f"data.source={arrays}", "data.size=16", "data.validation_share=0",
        *(f"{part}.fit.{k}" for part in ("anchor", "student") for k in ("steps=4", "batch=16")),
    )  # fmt: skip
    tiny = ("network=residual-s", "network.widths=[8]", "network.depths=[1]", "network.dim=16")
    old = Run.open(
        tmp_path / "old", resolve("demo", [*small, *(f"anchor.{t}" for t in tiny), "data.train_classes=3"])
    )
    _ = old.whole_anchor
    changes = [*small, *(f"student.{t}" for t in tiny), f"anchor.source={tmp_path / 'old' / 'anchor'}"]
    new = Run.open(tmp_path / "new", resolve("upgrade", [*changes, "student.views=1"]))
    found = evaluate_run(new)
    assert found.paragon is not None
    command = [sys.executable, "-m", "hetero", "upgrade", "evaluate", str(tmp_path / "new"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(found.to_json()))
