"""Positive-congruent training: losses worked by hand, and what a run makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hetero.models import store
from hetero.objectives.congruent import (
    Classifier,
    FocalKlConfig,
    FocalLmConfig,
    PctNaiveConfig,
    answered_right,
    calibrated,
    kl_by_sample,
    matching_by_sample,
    pct_naive,
)
from hetero.objectives.contrastive import cross_supcon
from hetero.objectives.focal import (
    FocalContrastConfig,
    FocalRegressionConfig,
    focal_contrast,
    focal_regression,
    focal_weights,
)
from hetero.objectives.inhibition import Elodi, ElodiConfig, LdiConfig, logit_inhibition
from hetero.objectives.regression import cosine_regression
from hetero.objectives.task import Given, Reference, Supervision, Task, Term
from hetero.objectives.terms import Objective
from hetero.recipes.resolve import resolve
from hetero.runs import Run
from hetero_devices.errors import RecipeError
from tests.small import small

SMALL = small("elastic-xs")
RIGHT = torch.tensor([True, False])


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_who_was_right_where_the_old_model_knows_fewer_classes() -> None:
    """Old classes 0, 1, 2 are the training classes 4, 0 and none."""
    logits = torch.tensor([[9.0, 1, 1], [1, 9, 1], [1, 1, 9], [1, 9, 1]])
    right = answered_right(logits, torch.tensor([4, 0, -1]), torch.tensor([4, 0, 2, 3]))
    assert right.tolist() == [True, True, False, False]


def test_naive_reweighting_worked_by_hand() -> None:
    """-log softmax of equal logits over 4 classes is log 4; only the first image counts, of two."""
    loss = pct_naive(torch.zeros(2, 4), RIGHT, torch.tensor([1, 2]))
    assert loss.item() == pytest.approx(np.log(4) / 2)


def test_the_focal_weight_worked_by_hand() -> None:
    assert focal_weights(RIGHT, 1, 5).tolist() == [6, 1]
    student, anchor = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    assert focal_regression(student, anchor, focal_weights(RIGHT, 1, 5)).item() == pytest.approx(
        (6 * 0.4 + 1 * 0.4) / 2
    )


def test_without_a_focus_the_plain_losses_remain() -> None:
    z, a, labels = unit(8, 4), unit(8, 4, seed=1), torch.arange(8) % 3
    ones = focal_weights(torch.zeros(8, dtype=torch.bool), 1, 5)
    torch.testing.assert_close(focal_regression(z, a, ones), cosine_regression(z, a))
    torch.testing.assert_close(focal_contrast(z, a, labels, ones, 0.1), cross_supcon(z, a, labels, 0.1))


def test_hot_kl_is_logit_matching() -> None:
    """T^2 KL -> mean_c (d_c - mean d)^2 / 2 for T -> infinity, d the difference of the logits."""
    new, old = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    centred = (new - old) - (new - old).mean(1, keepdim=True)
    expected = matching_by_sample(centred, torch.zeros_like(centred))
    torch.testing.assert_close(1e4**2 * kl_by_sample(new, old, 1e4), expected, rtol=1e-3, atol=1e-6)
    assert kl_by_sample(old, old, 5.0).abs().max() < 1e-12


def test_kl_worked_by_hand() -> None:
    """softmax(old) = (3/4, 1/4), softmax(new) = (1/2, 1/2)."""
    old = torch.tensor([[np.log(3.0), 0.0]])
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert kl_by_sample(torch.zeros(1, 2), old.float(), 1.0).item() == pytest.approx(expected, rel=1e-5)


def test_inhibition_worked_by_hand() -> None:
    new, reference = torch.tensor([[3.0, 0.0, 1.2]]), torch.tensor([[1.0, 0.0, 2.0]])
    everything = (1.5**2 + 0 + 0.3**2) / 3
    assert logit_inhibition(new, reference, 2, 0.5, None).item() == pytest.approx(everything)
    highest = (0.3**2 + 1.5**2) / 2  # of the reference: the third and the first
    assert logit_inhibition(new, reference, 2, 0.5, 2).item() == pytest.approx(highest)
    assert logit_inhibition(new, reference, 2, 2.0, None).item() == 0


def test_calibration_raises_only_new_classes() -> None:
    raised = calibrated(torch.zeros(1, 5), torch.tensor([3, 0, -1]), 4.0)
    assert raised.tolist() == [[0, 4, 4, 0, 4]]


def known(head: Tensor, classes: int, seen: list[int] | None = None) -> Given:
    reference = Reference(unit(12, 4, seed=3), torch.arange(12) % classes)
    places = None if seen is None else torch.tensor(seen)
    return Given(classes, 4, True, head, lambda: reference, head_classes=places)


@pytest.mark.parametrize("config", [PctNaiveConfig(), FocalKlConfig(), FocalLmConfig(), LdiConfig()])
def test_a_classifier_compares_shared_classes_only(config: Term) -> None:
    """Renaming what the old classes stand for changes the loss; classes the data lacks do not enter it."""
    torch.manual_seed(0)
    z, batch = unit(6, 4), Supervision(torch.arange(6) % 5, unit(6, 4, seed=1), torch.arange(6))
    head = unit(2, 4, seed=2)

    def loss(given: Given) -> float:
        torch.manual_seed(1)
        value: Tensor = config.build(given)(z, batch)
        return float(value.detach())

    assert loss(known(head, 5)) == loss(known(head, 5, [0, 1]))
    assert loss(known(head, 5)) != loss(known(head, 5, [3, 4]))
    if not isinstance(config, PctNaiveConfig):  # which asks only whether the old model is right
        far = torch.cat([head, -batch.anchor.mean(0, keepdim=True)])  # never the old model's answer
        assert loss(known(far, 5, [0, 1, -1])) == pytest.approx(loss(known(head, 5, [0, 1])))
    with pytest.raises(RecipeError, match="knows none of the training classes"):
        config.build(known(head, 5, [-1, -1]))


def test_an_unnamed_head_with_more_classes_than_the_data_is_refused() -> None:
    with pytest.raises(RecipeError, match="7 classes without names, the data has 5"):
        FocalKlConfig().build(known(unit(7, 4), 5))


def test_focal_distillation_is_classification_and_a_weighted_distance() -> None:
    torch.manual_seed(0)
    given, labels = known(unit(5, 4, seed=2), 5), torch.arange(6) % 5
    task = FocalLmConfig(distil=0.5, alpha=2, beta=3).build(given)
    assert isinstance(task, Classifier)
    z, anchor = unit(6, 4), unit(6, 4, seed=1)
    new = 24 * z @ F.normalize(task.prototypes, dim=1).T
    old = 24 * anchor @ given.head.T  # type: ignore[union-attr]
    weights = torch.where(old.argmax(1) == labels, 5.0, 2.0)
    expected = F.cross_entropy(new, labels) + 0.5 * (weights * (new - old).pow(2).mean(1) / 2).mean()
    torch.testing.assert_close(task(z, Supervision(labels, anchor)), expected)
    torch.testing.assert_close(task.head(), task.prototypes.detach())


def test_answered_is_recall_leave_one_out() -> None:
    """Two classes: two neighbours each, and one of class 0 that lies among class 1."""
    degrees = torch.tensor([0.0, 5, 90, 95, 91])
    vectors = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], 1)
    found = Reference(vectors, torch.tensor([0, 0, 1, 1, 0])).answered()
    assert found.tolist() == [True, True, False, False, False]  # 90 and 95 find 91 first


@pytest.mark.parametrize("config", [FocalRegressionConfig(), FocalContrastConfig()])
def test_focal_retrieval_weighs_items_by_what_the_anchor_answers(config: Term) -> None:
    reference = Reference(unit(12, 4, seed=3), torch.arange(12) % 5)
    task: Task = config.build(Given(5, 4, True, None, lambda: reference))
    weights = dict(task.named_buffers())["weights"]
    assert torch.equal(weights, 1 + 5 * reference.answered().float())
    assert not task.state_dict()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six classes of eight random images, a to f; and classes b, d, f of them."""
    folder = tmp_path_factory.mktemp("data")
    images = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), dtype=np.uint8)
    labels = np.repeat(np.array(list("abcdef")), 8)
    for name, rows in (("all", labels != "x"), ("some", np.isin(labels, ["b", "d", "f"]))):
        target = folder / f"{name}.csv"
        (folder / name).mkdir()
        lines = ["path,label,split"]
        for row in np.flatnonzero(rows):
            path = folder / name / f"{row}.png"
            _png(path, images[row])
            lines.append(f"{name}/{row}.png,{labels[row]},{'test' if row % 8 > 5 else 'train'}")
        target.write_text("\n".join(lines) + "\n")
    return folder / "all.csv", folder / "some.csv"


def _png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    from PIL import Image

    Image.fromarray(image).save(path)


@pytest.fixture(scope="module")
def old(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Run.open(tmp_path_factory.mktemp("old"), resolve("demo", [*SMALL, f"data.source={data[1]}"]))
    assert run.anchor.classes == ("b", "d", "f")
    return run.folder / "anchor"


def test_a_classifier_is_upgraded_by_name_of_class_and_has_its_own_space(
    data: tuple[Path, Path], old: Path, tmp_path: Path
) -> None:
    changes = [*SMALL, f"data.source={data[0]}", f"anchor.source={old}"]
    changes.append("student.objective=[{term: focal_kl}]")
    run = Run.open(tmp_path / "new", resolve("demo", changes))
    model = run.student
    assert model.classes == tuple("abcdef")
    assert model.head is not None
    assert len(model.head) == 6
    assert model.space != run.anchor.space
    assert store.load(tmp_path / "new" / "student").classes == model.classes
    kept = run.student_by((FocalRegressionConfig(),), run.recipe.student.fit, "kept")
    assert kept.space == run.anchor.space
    _ = run.alone
    line = "student.objective=[{{term: mpt, references: [{}]}}]"
    changes[-1] = line.format(tmp_path / "new" / "alone")
    taught = Run.open(tmp_path / "mpt", resolve("demo", changes)).student
    assert taught.head is not None
    assert taught.head.isfinite().all()
    changes[-1] = line.format(old)
    wrong = Run.open(tmp_path / "bad", resolve("demo", changes))
    with pytest.raises(RecipeError, match="classifies 3 classes, the data has 6"):
        _ = wrong.student


def test_an_ensemble_teaches_an_anchor_without_any_older_model(data: tuple[Path, Path], old: Path) -> None:
    line = f"anchor.objective=[{{term: elodi, top: 2, references: [{old}, {old}]}}]"
    run = Run.open(old.parent.parent / "elodi", resolve("demo", [*SMALL, f"data.source={data[1]}", line]))
    assert run.anchor.head is not None
    assert run.anchor.space != store.load(old).space


def test_references_answer_with_their_mean_and_are_no_part_of_the_objective(old: Path) -> None:
    model, pixels = store.load(old), torch.rand(2, 3, 16, 16) * 255
    config = ElodiConfig(references=(str(old), str(old)))
    task = config.build(Given(3, 4, False, None))
    assert isinstance(task, Elodi)
    supervision = Supervision(torch.zeros(2, dtype=torch.int64), None, pixels=pixels)
    assert model.head is not None
    expected = 24 * model.deploy.embed(pixels) @ F.normalize(model.head, dim=1).T
    torch.testing.assert_close(task.references.logits(supervision), expected.detach())
    assert list(task.state_dict()) == ["prototypes"]
    with pytest.raises(RecipeError, match="takes 16-pixel images, the training has 8"):
        task.references.logits(replace(supervision, pixels=pixels[:, :, :8, :8]))
    with pytest.raises(RecipeError, match="name their folders"):
        Objective((ElodiConfig(),), Given(3, 4, False, None))
