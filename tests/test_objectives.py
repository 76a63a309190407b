"""Objectives: terms as recipe lines, what they need, and the state they keep."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hetero.objectives.contrastive import InfoNceConfig
from hetero.objectives.mixing import MixedConfig
from hetero.objectives.neighbours import CsdConfig
from hetero.objectives.prefix import PrefixRegressionConfig
from hetero.objectives.quantised import SspConfig
from hetero.objectives.regression import cosine_regression
from hetero.objectives.softmax import margin_softmax
from hetero.objectives.stationary import HocConfig, SimplexConfig, d_simplex
from hetero.objectives.task import Term
from hetero.objectives.terms import (
    TERMS,
    FrozenHeadConfig,
    Given,
    MarginSoftmaxConfig,
    Need,
    Objective,
    Reference,
    RegressionConfig,
    Supervision,
    name_of,
    needs_of,
)
from hetero.recipes.resolve import resolve
from hetero_devices.errors import RecipeError

CLASSES, DIM, BATCH = 4, 16, 12
ABLE = [term for term in TERMS if not {Need.MAPS, Need.MODELS} & term.needs]


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def given(**changes: object) -> Given:
    reference = Reference(unit(40, DIM, seed=5), torch.arange(40) % CLASSES)
    known = {
        "classes": CLASSES,
        "dim": DIM,
        "anchor": True,
        "head": unit(CLASSES, DIM, seed=6),
        "reference": lambda: reference,
    }
    return Given(**(known | changes))  # type: ignore[arg-type]


def batch(seed: int = 0) -> tuple[Tensor, Supervision]:
    raw = torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(100 + seed)).requires_grad_()
    labels, items = torch.arange(BATCH) % CLASSES, torch.arange(BATCH) + seed
    return raw, Supervision(labels, unit(BATCH, DIM, seed=seed + 50), items, raw)


def small(term: type[Term]) -> Term:
    """The term with its published constants, where those fit into a toy space."""
    return SspConfig(subspaces=4, centroids=8) if term is SspConfig else term()  # type: ignore[call-arg]


@pytest.mark.parametrize("term", ABLE, ids=name_of)
def test_every_term_gives_a_finite_loss_and_gradient(term: type[Term]) -> None:
    torch.manual_seed(0)
    objective = Objective((small(term),), given())
    raw, supervision = batch()
    losses = objective(F.normalize(raw, dim=1), supervision)
    (loss,) = losses.values()
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert raw.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


@pytest.mark.parametrize("term", TERMS, ids=name_of)
def test_every_term_is_a_recipe_line(term: type[Term]) -> None:
    recipe = resolve("demo", [f"student.objective=[{{term: {name_of(term)}, weight: 0.5}}]"])
    assert recipe.student.objective == (term(weight=0.5),)  # type: ignore[call-arg]


@pytest.mark.parametrize("term", TERMS, ids=name_of)
def test_a_term_without_what_it_needs_is_refused_in_one_line(term: type[Term]) -> None:
    offers = {
        Need.LABELS: given(classes=1, head=unit(1, DIM)),
        Need.VECTORS: given(anchor=False, head=None, reference=None),
        Need.HEAD: given(head=None),
        Need.MAPS: given(),
        Need.MODELS: given(),
    }
    for need in term.needs:
        with pytest.raises(RecipeError, match=f"the term {name_of(term)!r} needs") as caught:
            Objective((small(term),), offers[need])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("term", ABLE, ids=name_of)
def test_a_term_is_content_with_what_it_says_it_needs(term: type[Term]) -> None:
    """Only that is there: a black box where no head is asked for, no labels where none are."""
    torch.manual_seed(0)
    head = given().head if Need.HEAD in term.needs else None
    anchor = bool(term.needs - {Need.LABELS})
    modest = given(head=head, anchor=anchor, reference=given().reference if anchor else None)
    if Need.LABELS not in term.needs:
        modest = given(head=head, classes=1)
    raw, supervision = batch()
    labels = supervision.labels if Need.LABELS in term.needs else torch.zeros_like(supervision.labels)
    offered = Supervision(labels, supervision.targets if anchor else None, supervision.items, raw)
    (loss,) = Objective((small(term),), modest)(F.normalize(raw, dim=1), offered).values()
    assert loss.isfinite()


def test_terms_are_weighted_and_named() -> None:
    head = unit(3, 4, seed=1)
    terms = (RegressionConfig(weight=2.0), FrozenHeadConfig(weight=0.5, scale=4.0))
    objective = Objective(terms, Given(classes=3, dim=4, anchor=True, head=head))
    z, target, y = unit(6, 4), unit(6, 4, seed=2), torch.arange(6) % 3
    losses = objective(z, Supervision(y, target))
    torch.testing.assert_close(losses["0_regression"], 2 * cosine_regression(z, target))
    torch.testing.assert_close(losses["1_frozen_head"], 0.5 * margin_softmax(z, head, y, 4.0, 0.0))


def test_what_belongs_to_the_anchor_is_frozen_and_not_saved() -> None:
    for config in (FrozenHeadConfig(), CsdConfig(bank=8)):
        objective = Objective((config,), given())
        assert not list(objective.parameters())
        assert not objective.state_dict()


def test_a_trained_head_is_given_away() -> None:
    objective = Objective((MarginSoftmaxConfig(),), Given(classes=3, dim=4, anchor=False, head=None))
    head = objective.head()
    assert head is not None
    assert head.shape == (3, 4)
    assert not head.requires_grad


@pytest.mark.parametrize(
    ("term", "known", "message"),
    [
        (RegressionConfig(), Given(3, 4, False, None), "needs an anchor"),
        (FrozenHeadConfig(), Given(3, 4, False, None), "needs an anchor"),
        (FrozenHeadConfig(), Given(3, 4, True, None), "black box"),
        (FrozenHeadConfig(), Given(3, 4, True, torch.zeros(2, 4)), "the classes the anchor was trained on"),
        (MarginSoftmaxConfig(), Given(1, 4, False, None), "use a label-free term"),
        (SimplexConfig(), Given(6, 4, False, None), "6 classes do not fit into 4 dimensions"),
        (SspConfig(subspaces=3), Given(3, 4, True, None), "set its subspaces to a smaller divisor"),
        (PrefixRegressionConfig(dims=(2, 8)), Given(3, 4, True, None), "outside 1..4"),
    ],
)
def test_what_a_term_needs_is_said_when_it_is_built(term: Term, known: Given, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Objective((term,), known)


def test_feature_maps_are_not_offered_by_any_anchor() -> None:
    with pytest.raises(RecipeError, match="feature maps, which this anchor does not offer"):
        Objective((next(t for t in TERMS if name_of(t) == "ugd")(),), given())  # type: ignore[call-arg]


@pytest.mark.parametrize("key", ["anchor.objective", "student.alone_objective"])
def test_a_recipe_refuses_an_anchored_term_where_there_is_no_anchor(key: str) -> None:
    with pytest.raises(RecipeError, match=f"{key}: the term 'regression' needs an anchor"):
        resolve("demo", [f"{key}=[{{term: regression}}]"])


def test_needs_add_up() -> None:
    assert needs_of((RegressionConfig(), FrozenHeadConfig())) == {Need.VECTORS, Need.LABELS, Need.HEAD}
    assert needs_of(()) == frozenset()


def queue_of(objective: Objective) -> Tensor:
    vectors: Tensor = objective.state_dict()["terms.0_info_nce.vectors"]
    return vectors


def test_the_queue_holds_the_latest_anchor_vectors_in_a_ring() -> None:
    objective = Objective((InfoNceConfig(queue=20),), given())
    for seed in range(2):
        raw, supervision = batch(seed)
        objective(F.normalize(raw, dim=1), supervision)
    first, second = batch(0)[1].anchor, batch(1)[1].anchor
    expected = torch.cat([second[8:], first[4:], second[:8]])  # 12 + 12 into 20 places
    torch.testing.assert_close(queue_of(objective), expected)


def test_a_batch_larger_than_the_queue_fills_it() -> None:
    objective = Objective((InfoNceConfig(queue=5),), given())
    raw, supervision = batch()
    objective(F.normalize(raw, dim=1), supervision)
    assert sorted(map(tuple, queue_of(objective).tolist())) == sorted(
        map(tuple, supervision.anchor[-5:].tolist())
    )


def test_an_empty_queue_and_the_image_itself_are_no_negatives() -> None:
    objective = Objective((InfoNceConfig(queue=BATCH),), given())
    raw, supervision = batch()
    z = F.normalize(raw, dim=1)
    (empty,) = objective(z, supervision).values()
    (plain,) = Objective((InfoNceConfig(queue=0),), given())(z, supervision).values()
    torch.testing.assert_close(empty, plain)
    (again,) = objective(z, supervision).values()  # the queue now holds these very images
    assert again > plain  # the other eleven of them, a second time
    only = Supervision(supervision.labels[:1], supervision.anchor[:1], supervision.items[:1])  # type: ignore[index]
    single = Objective((InfoNceConfig(queue=2),), given())
    single(z[:1], only)
    (alone,) = single(z[:1], only).values()
    assert alone.item() == pytest.approx(0)


def test_the_queue_stands_still_in_evaluation() -> None:
    objective = Objective((InfoNceConfig(queue=20),), given()).eval()
    raw, supervision = batch()
    objective(F.normalize(raw, dim=1), supervision)
    assert not queue_of(objective).any()


@pytest.mark.parametrize("term", ABLE, ids=name_of)
def test_state_restored_goes_on_as_if_never_stopped(term: type[Term]) -> None:
    def loss_of(objective: Objective, step: int) -> Tensor:
        torch.manual_seed(step)  # as the loop does
        raw, supervision = batch(step)
        losses: dict[str, Tensor] = objective(F.normalize(raw, dim=1), supervision)
        return torch.stack(list(losses.values())).detach()

    torch.manual_seed(0)
    objective = Objective((small(term),), given())
    loss_of(objective, 1)
    saved = {k: v.clone() for k, v in objective.state_dict().items()}
    torch.manual_seed(99)  # a resumed process draws other first values, and must not keep them
    resumed = Objective((small(term),), given())
    resumed.load_state_dict(saved)
    for step in (2, 3):
        assert torch.equal(loss_of(objective, step), loss_of(resumed, step))


def test_the_simplex_of_a_simplex_anchor_is_not_turned() -> None:
    vertices = d_simplex(CLASSES, DIM).float()
    same = Objective((HocConfig(),), given(head=vertices))
    other = Objective((HocConfig(),), given())
    assert torch.equal(dict(same.named_buffers())["terms.0_hoc.vertices"], vertices)
    assert not torch.equal(dict(other.named_buffers())["terms.0_hoc.vertices"], vertices)
    head = Objective((SimplexConfig(),), given(anchor=False, head=None)).head()
    assert head is not None
    assert torch.equal(head, vertices)


def test_mixing_replaces_the_asked_share_of_credible_items() -> None:
    objective = Objective((MixedConfig(ratio=0.5, credible=0.5),), given())
    task = next(iter(objective.terms.values()))
    _, supervision = batch()
    chosen = task._chosen(supervision)  # type: ignore[operator]
    assert chosen.sum() <= BATCH // 2
    assert dict(objective.named_buffers())["terms.0_mixed.credible"][:BATCH][chosen].all()


def test_the_documented_table_is_what_the_terms_say() -> None:
    """Regenerate with `python docs/generate_objectives.py`."""
    page = (Path(__file__).parent.parent / "docs" / "objectives.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", page, re.MULTILINE))
    assert list(listed) == list(map(name_of, TERMS))
    for term in TERMS:
        cells = [cell.strip() for cell in listed[name_of(term)].split("|")]
        assert term.source in cells
        free, box = cells[1:3]
        assert (free == "yes") == (Need.LABELS not in term.needs)
        assert (box == "yes") == (not {Need.HEAD, Need.MAPS} & term.needs)
