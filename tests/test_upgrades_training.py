"""Backward-compatible training: a head of fewer classes, cut training sets, several old models, chains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hetero.data.imageset import ImageSet
from hetero.data.splits import restricted
from hetero.models import store
from hetero.objectives.influence import Bct, BctConfig, influence, rows_of
from hetero.objectives.regression import RegressionConfig
from hetero.objectives.softmax import MarginSoftmaxConfig
from hetero.objectives.terms import Given, Objective, Reference, Supervision
from hetero.recipes.resolve import resolve
from hetero.runs import Run
from hetero_devices.errors import DataError, RecipeError, SpaceMismatch
from tests.small import small

SMALL = small("residual-s")


def test_influence_counts_only_the_classes_the_head_knows() -> None:
    features = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    head = F.normalize(torch.randn(2, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    rows = torch.tensor([1, -1, 0, -1])
    logits = features[[0, 2]] @ head.T
    expected = -(logits[0, 1] - logits[0].logsumexp(0) + logits[1, 0] - logits[1].logsumexp(0)) / 2
    torch.testing.assert_close(influence(features, head, rows), expected)
    assert float(influence(features, head, torch.full((4,), -1))) == 0


def test_rows_of_a_head_by_class() -> None:
    """The head's rows are classes 3, none, 0 of five."""
    assert rows_of(torch.tensor([3, -1, 0]), 5).tolist() == [2, -1, -1, 0, -1]


def known(classes: int = 5) -> Given:
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(20, 4, generator=generator), dim=1)
    reference = Reference(vectors, torch.arange(20) % classes)
    return Given(
        classes, 4, True, torch.randn(3, 4, generator=generator), lambda: reference,
        head_classes=torch.tensor([3, -1, 0]),
    )  # fmt: skip


def test_synthesised_prototypes_stand_in_for_unseen_classes_only() -> None:
    given = known()
    task = BctConfig(unseen="synthesised").build(given)
    assert isinstance(task, Bct)
    assert given.head is not None
    centres = given.anchors().centres(5)
    expected = centres.clone()
    expected[[3, 0]] = F.normalize(given.head[[0, 2]], dim=1)
    torch.testing.assert_close(task.frozen, expected)
    left_out = BctConfig().build(given)
    assert isinstance(left_out, Bct)
    assert left_out.rows.tolist() == [2, -1, -1, 0, -1]


@pytest.mark.parametrize("normalised", [True, False])
def test_bct_is_the_sum_of_both_classifiers(normalised: bool) -> None:
    task = BctConfig(normalised=normalised, influence=0.5, scale=7).build(known())
    assert isinstance(task, Bct)
    raw = torch.randn(6, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    unit, labels = F.normalize(raw, dim=1), torch.tensor([0, 1, 2, 3, 4, 3])
    found = task(unit, Supervision(labels, None, raw=raw))
    own = 7 * unit @ F.normalize(task.prototypes, dim=1).T if normalised else raw @ task.prototypes.T
    old = (7 * unit if normalised else raw)[[0, 3, 5]] @ task.frozen.T
    expected = F.cross_entropy(own, labels) + 0.5 * F.cross_entropy(old, torch.tensor([2, 0, 0]))
    torch.testing.assert_close(found, expected)
    found.backward()
    assert task.prototypes.grad is not None
    assert task.head().shape == (5, 4)
    assert set(task.state_dict()) == {"prototypes"}


def images(classes: int = 6, each: int = 5) -> ImageSet:
    count = classes * each
    pixels = np.zeros((count, 8, 8, 3), np.uint8)
    names = tuple("fbdace"[:classes])
    return ImageSet(pixels, np.arange(count) % classes, np.arange(count), np.zeros(count, np.int64), names)


def test_fewer_classes_are_the_first_by_name() -> None:
    found = restricted(images(), 2, 1.0, 0)
    assert set(found.class_names) == {"a", "b"}
    assert {images().class_names[label] for label in images().labels[found.ids]} == {"a", "b"}
    with pytest.raises(DataError, match="train_classes is 7, the training set has 6"):
        restricted(images(), 7, 1.0, 0)


def test_a_share_of_every_class_is_drawn_by_the_seed() -> None:
    first, again, other = (restricted(images(), None, 0.4, seed) for seed in (0, 0, 1))
    assert first.counts().tolist() == [2] * 6
    assert first.ids.tolist() == again.ids.tolist() == sorted(first.ids.tolist())
    assert first.ids.tolist() != other.ids.tolist()
    assert restricted(images(), None, 0.01, 0).counts().tolist() == [1] * 6
    assert restricted(images(), None, 1.0, 0).ids.tolist() == list(range(30))


# Runs


def run_of(folder: Path, data: Path, *changes: str) -> Run:
    return Run.open(folder, resolve("demo", [*SMALL, f"data.source={data}", *changes]))


@pytest.fixture(scope="module")
def old(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An old model, trained on three of the six training classes and half of their images."""
    run = run_of(tmp_path_factory.mktemp("old"), arrays, "data.train_classes=3", "data.train_share=0.5")
    assert run.items.classes == 3
    assert len(run.items) == 15
    _ = run.whole_anchor
    return run.folder / "anchor"


UPGRADE = ("student.network=residual-s", "student.network.widths=[12]", "student.network.depths=[1]")


def test_an_upgrade_to_more_classes_and_another_network(old: Path, arrays: Path, tmp_path: Path) -> None:
    changes = (*UPGRADE, "student.network.dim=16", f"anchor.source={old}", "student.objective=[{term: bct}]")
    run = run_of(tmp_path, arrays, *changes)
    assert run.items.classes == 6
    new = run.student
    assert new.space == store.load(old).space
    assert new.head is not None
    assert (len(new.head), len(new.classes)) == (6, 6)
    assert set(store.load(old).classes) < set(new.classes)


def test_a_chain_takes_the_last_student_as_the_next_old_model(
    old: Path, arrays: Path, tmp_path: Path
) -> None:
    second = run_of(tmp_path / "2", arrays, f"anchor.source={old}", "student.objective=[{term: bct}]")
    _ = second.student
    middle = tmp_path / "2" / "student"
    third = run_of(
        tmp_path / "3", arrays, f"anchor.source={middle}", f"anchor.also=[{old}]",
        "student.objective=[{term: bct}, {term: regression}]",
    )  # fmt: skip
    assert third.student.space == second.student.space == store.load(old).space
    lines = (tmp_path / "3" / "student" / "metrics.jsonl").read_text()
    assert all(name in lines for name in ("0_bct", "0_bct_1", "1_regression", "1_regression_1"))
    assert (tmp_path / "3" / "anchor" / "views-1" / "view0.npy").is_file()


def test_two_old_models_must_share_a_space(old: Path, arrays: Path, tmp_path: Path) -> None:
    other = run_of(tmp_path / "other", arrays, "seed=1")
    _ = other.whole_anchor
    run = run_of(
        tmp_path / "new", arrays, f"anchor.source={old}", f"anchor.also=[{tmp_path / 'other' / 'anchor'}]"
    )
    with pytest.raises(SpaceMismatch, match=r"anchor\.also="):
        _ = run.student
    assert not (tmp_path / "new" / "student").exists()


def test_towards_several_the_weight_is_divided() -> None:
    generator = torch.Generator().manual_seed(0)
    z, a, b = (F.normalize(torch.randn(5, 4, generator=generator), dim=1) for _ in range(3))
    given = Given(3, 4, True, None)
    objective = Objective([RegressionConfig(weight=3), MarginSoftmaxConfig()], given, [given])
    losses = objective(z, Supervision(torch.arange(5) % 3, a, others=(b,)))
    assert list(losses) == ["0_regression", "0_regression_1", "1_margin_softmax"]
    for name, target in (("0_regression", a), ("0_regression_1", b)):
        torch.testing.assert_close(losses[name], 1.5 * (1 - (z * target).sum(1)).mean())


def test_a_black_box_old_model_has_no_influence(arrays: Path) -> None:
    with pytest.raises(RecipeError, match="needs the anchor's class prototypes"):
        Objective([BctConfig()], Given(3, 4, True, None))
