"""Every loss: a known value, its gradient in double precision, and what it is blind to."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hetero.objectives import (
    basis,
    boundary,
    contrastive,
    controls,
    heads,
    maps,
    mixing,
    neighbours,
    prefix,
    quantised,
    regression,
    softmax,
    stationary,
)
from hetero.objectives.task import Reference

AXES = torch.eye(3, dtype=torch.float64)
ROLLED = AXES.roll(1, 0)
EACH = torch.arange(3)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def softmax_of(first: float, *others: float) -> float:
    return math.exp(first) / sum(map(math.exp, (first, *others)))


def crossed(scale: float, classes: int) -> float:
    """KL between two softmaxes of one logit `scale` among zeros, at different places."""
    zeros = (0.0,) * (classes - 1)
    return scale * (softmax_of(scale, *zeros) - softmax_of(0.0, scale, *zeros[1:]))


Known = dict[str, tuple[Callable[[], Tensor], float]]

REGRESSIONS: Known = {
    "cosine": (lambda: regression.cosine_regression(AXES, ROLLED), 1.0),
    "l2": (lambda: regression.l2_regression(AXES, ROLLED), math.sqrt(2)),
    "prefixes": (
        lambda: prefix.prefix_regression(rows((0.6, 0.8)), rows((-0.6, 0.8)), (1, 2)),
        (2 + 0.72) / 2,
    ),
    "raw mse": (lambda: controls.raw_mse(2 * AXES, AXES), 1 / 3),
}

CLASSIFICATIONS: Known = {
    "margin": (
        lambda: softmax.margin_softmax(AXES, 5 * AXES, EACH, 2.0, 0.25),
        -math.log(softmax_of(1.5, 0, 0)),
    ),
    "arc": (
        lambda: softmax.arc_softmax(ROLLED, AXES, EACH, 2.0, 0.3),
        -math.log(softmax_of(2 * math.cos(math.pi / 2 + 0.3), 2, 0)),
    ),
    "arc past the opposite point": (
        lambda: softmax.arc_softmax(-AXES, AXES, EACH, 2.0, 0.3),
        -math.log(softmax_of(-2, 0, 0)),
    ),
    "prefixes": (
        lambda: prefix.prefix_softmax(AXES[:1], AXES, EACH[:1], (1, 3), 1.0, 0.0),
        -math.log(softmax_of(1, 0, 0)),
    ),
    "soft head": (lambda: heads.soft_head(AXES, ROLLED, AXES, 2.0), crossed(2.0, 3)),
    "composite head": (
        lambda: heads.composite_head(ROLLED, -AXES, AXES, EACH, (0.5, 2.0), 1.0, 0.0),
        -0.5 * math.log(softmax_of(0, 0, -1)) - 2 * math.log(softmax_of(0, 0, 1)),
    ),
    "mixed": (
        lambda: mixing.mixed_softmax(AXES, ROLLED, torch.tensor([True, False, True]), -AXES, EACH, 1.0, 0.0),
        -(2 * math.log(softmax_of(0, 0, -1)) + math.log(softmax_of(-1, 0, 0))) / 3,
    ),
    "logits": (lambda: controls.logit_distillation(2 * AXES, 2 * ROLLED, 2.0), 4 * crossed(1.0, 3)),
    "hoc, contrast only": (
        lambda: stationary.hoc(AXES, AXES, EACH, AXES, 1.0, 0.5, 1.0),
        -2 + math.log(3),
    ),
    "hoc, classes only": (
        lambda: stationary.hoc(AXES, AXES, EACH, AXES, 2.0, 0.5, 0.0),
        -math.log(softmax_of(2, 0, 0)),
    ),
}

CONTRASTS: Known = {
    "aml contrastive, right": (lambda: contrastive.aml_contrastive(AXES, AXES, EACH, 0.7, 5), 0.0),
    "aml contrastive": (lambda: contrastive.aml_contrastive(ROLLED, AXES, EACH, 0.7, 5), 1 + 0.49 / 2),
    "aml triplet": (lambda: contrastive.aml_triplet(ROLLED, AXES, EACH, 0.1, 5), 2.1 + 0.1),
    "supcon": (
        lambda: contrastive.cross_supcon(AXES[:2], AXES[:2], torch.tensor([7, 7]), 0.5),
        -(math.log(softmax_of(2, 0)) + math.log(softmax_of(0, 2))) / 2,
    ),
    "info nce": (lambda: contrastive.info_nce(AXES, AXES, 1.0), -math.log(softmax_of(1, 0, 0))),
    "info nce with a queue": (
        lambda: contrastive.info_nce(AXES[:1], AXES[:1], 1.0, -AXES[:2]),
        -math.log(softmax_of(1, -1, 0)),
    ),
    "info nce with a hidden entry": (
        lambda: contrastive.info_nce(AXES[:1], AXES[:1], 1.0, AXES[:2], torch.tensor([[True, False]])),
        -math.log(softmax_of(1, 0)),
    ),
    "ract": (lambda: contrastive.ract(AXES, AXES, EACH, 1.0), -math.log(softmax_of(1, 0, 0, 0, 0))),
    "ract without negatives": (lambda: contrastive.ract(AXES, ROLLED, 0 * EACH, 1.0), 0.0),
}

_NEAR = rows((1, 0, 0), (0.8, 0.6, 0), (0.6, 0, 0.8))  # the first row's neighbours: similarities 1, 0.8, 0.6

NEIGHBOURHOODS: Known = {
    "csd": (lambda: neighbours.csd(AXES[1:2], AXES[:1], AXES, 3, 1.0, 1.0), crossed(1.0, 3)),
    "csd of the nearest only": (lambda: neighbours.csd(AXES[1:2], AXES[:1], AXES, 1, 1.0, 1.0), 0.0),
    "rop": (
        lambda: neighbours.rop(AXES[:1], AXES[:1], AXES[:2], 2, 0.1, 0.0),
        1.5 / 2 * (1 / (1 + math.exp(10))) ** 2,
    ),
    "d3still in order": (
        lambda: neighbours.d3still(rows((0.6, 0.8, 0)), AXES[:1], _NEAR, 3, 2.0, 100.0, 3.0),
        2 * 0.4 + 3 * math.sqrt(2) * (0.4 / 0.3) / 2,
    ),
    "d3still out of order": (
        lambda: neighbours.d3still(rows((0.6, 0, 0.8)), AXES[:1], _NEAR, 3, 2.0, 5.0, 100.0),
        2 * 0.4 + 5 * math.sqrt(2) * (0.72 / 0.3) / 2,
    ),
    "raml": (lambda: neighbours.raml(ROLLED, AXES, 0.7, 0.6), 1 + 0.7 * 3 / 6),
    "raml, inner": (
        lambda: neighbours.raml(AXES[[0, 0]], AXES[:2], 0.0, 0.6),
        0.5 + 0.6,
    ),
    "ssp": (
        lambda: quantised.ssp(
            rows((1, 0, 0, 1)), rows((1, 0, 1, 0)), torch.stack([AXES[:2, :2], AXES[:2, :2]]), 2.0
        ),
        crossed(2.0, 2) / 2,
    ),
    "rkd": (
        lambda: controls.rkd(rows((0.0,), (1.0,), (2.0,)), AXES, 25.0, 50.0),
        25 * 0.5 * 2 * (0.25**2 + 0.5**2 + 0.25**2) / 9 + 50 * 2 * (0.125 + 1.0 + 0.125) / 27,
    ),
    "pkt": (
        lambda: controls.pkt(AXES[[0, 0]], AXES[:2]),
        2 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)) / 4,
    ),
}

# The anchor takes the first two images' only patch for class 0 and the third's for class 1.
_PATCHES = (AXES[:, None], -AXES[:, None], rows((1, 0), (1, 0), (0, 1))[:, None])

BOUNDARIES: Known = {
    "centre alignment": (lambda: boundary.centre_alignment(3 * ROLLED, AXES), 6 / 9),
    "boundary, inside": (lambda: boundary.boundary_excess(AXES, EACH, AXES, 0.9 * torch.ones(3)), 0.0),
    "boundary, outside": (
        lambda: boundary.boundary_excess(rows((0.6, 0.8, 0)), EACH[:1], AXES, rows((0.9, 0, 0))[0]),
        0.3,
    ),
    "elastic": (
        lambda: boundary.elastic_boundary(
            torch.cat([ROLLED[:1], AXES[1:]]), EACH, AXES, 0.3 * torch.ones(3), torch.zeros(3), 0.5
        ),
        math.sqrt(2) - 0.4,
    ),
    "bt2": (
        lambda: basis.bt2(
            F.pad(ROLLED, (0, 1)),
            torch.eye(4, dtype=torch.float64),
            AXES,
            EACH,
            F.pad(ROLLED, (0, 1)),
            AXES,
            1.0,
            basis.Bt2Weights(paragon=7.0, pseudo=2.0, old=3.0),
            F.pad(-ROLLED, (0, 1)),
        ),
        -math.log(softmax_of(1, 0, 0)) - 2 * math.log(softmax_of(0, 0, 1)) + 3 + 7 * 2,
    ),
    "ugd": (
        lambda: maps.ugd(AXES, ROLLED, [_PATCHES], 0 * EACH, 2.0, 3.0),
        2 * math.sqrt(2) + 3 * 2,
    ),
    "ugd, nothing recognised": (
        lambda: maps.unambiguous_patches(
            AXES[:, None], ROLLED[:, None], rows((1, 0), (1, 0), (1, 0))[:, None], EACH // 3 + 1
        ),
        0.0,
    ),
}

KNOWN = {
    f"{group} {name}": case
    for group, cases in {
        "regression:": REGRESSIONS,
        "classification:": CLASSIFICATIONS,
        "contrast:": CONTRASTS,
        "neighbourhood:": NEIGHBOURHOODS,
        "boundary:": BOUNDARIES,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_value(name: str) -> None:
    compute, expected = KNOWN[name]
    assert compute().item() == pytest.approx(expected, abs=5e-6)


STUDENT, ANCHOR = unit(6, 4), unit(6, 4, seed=1)
HEAD, GALLERY, LABELS = unit(3, 4, seed=2), unit(9, 4, seed=3), torch.arange(6) % 3
CODEBOOKS = unit(2, 5, 2, seed=4)
MASK = torch.tensor([True, False] * 3)

ANCHORED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": regression.cosine_regression,
    "l2": regression.l2_regression,
    "prefixes": lambda s, a: prefix.prefix_regression(s, a, (2, 4)),
    "soft head": lambda s, a: heads.soft_head(s, a, HEAD, 4.0),
    "aml contrastive": lambda s, a: contrastive.aml_contrastive(s, a, LABELS, 0.7, 2),
    "aml triplet": lambda s, a: contrastive.aml_triplet(s, a, LABELS, 0.1, 2),
    "supcon": lambda s, a: contrastive.cross_supcon(s, a, LABELS, 0.5),
    "info nce": lambda s, a: contrastive.info_nce(s, a, 0.5, GALLERY, GALLERY @ ANCHOR[0] > 0.9),
    "ract": lambda s, a: contrastive.ract(s, a, LABELS, 0.5),
    "csd": lambda s, a: neighbours.csd(s, a, GALLERY, 5, 0.5, 0.5),
    "rop": lambda s, a: neighbours.rop(s, a, GALLERY, 5, 0.1, 0.2),
    "d3still": lambda s, a: neighbours.d3still(s, a, GALLERY, 5, 50.0, 2.0, 1.0),
    "raml": lambda s, a: neighbours.raml(s, a, 0.7, 0.6),
    "ssp": lambda s, a: quantised.ssp(s, a, CODEBOOKS, 10.0),
    "hoc": lambda s, a: stationary.hoc(s, a, LABELS, HEAD, 4.0, 0.5, 0.5),
    "mixed": lambda s, a: mixing.mixed_softmax(s, a, MASK, HEAD, LABELS, 4.0, 0.3),
    "raw mse": controls.raw_mse,
    "boundary": lambda s, a: boundary.boundary_excess(s, LABELS, HEAD, torch.full((3,), 0.5)),
    "elastic": lambda s, a: boundary.elastic_boundary(
        s, LABELS, HEAD, torch.full((3,), 0.3), torch.zeros(3), 0.5
    ),
    "ugd": lambda s, a: maps.ugd(s, a, [(s[:, None], a[:, None], (a @ HEAD.T)[:, None])], LABELS, 2.0, 2.0),
    "bt2": lambda s, a: basis.bt2(
        F.pad(s, (0, 1)),
        torch.eye(5, dtype=torch.float64),
        a,
        LABELS,
        F.pad(HEAD, (0, 1)),
        HEAD,
        4.0,
        basis.Bt2Weights(),
    ),
}
RELATIONAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "rkd": lambda s, a: controls.rkd(s, a, 25.0, 50.0),
    "pkt": controls.pkt,
}


@pytest.mark.parametrize("name", ANCHORED | RELATIONAL)
def test_the_gradient_is_right_in_double_precision(name: str) -> None:
    loss = (ANCHORED | RELATIONAL)[name]
    assert torch.autograd.gradcheck(lambda s: loss(s, ANCHOR), (STUDENT.clone().requires_grad_(),))


def test_gradients_of_what_else_is_learnt_are_right() -> None:
    w, radius = HEAD.clone().requires_grad_(), torch.full((3,), 0.3, dtype=torch.float64)
    stretch = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    square = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check = torch.autograd.gradcheck
    assert check(lambda p: softmax.margin_softmax(STUDENT, p, LABELS, 4.0, 0.2), (w,))
    assert check(lambda p: softmax.arc_softmax(STUDENT, p, LABELS, 4.0, 0.2), (w,))
    assert check(lambda p: prefix.prefix_softmax(STUDENT, p, LABELS, (2, 4), 4.0, 0.2), (w,))
    assert check(lambda p: heads.composite_head(STUDENT, p, HEAD, LABELS, (1.0, 1.0), 4.0, 0.2), (w,))
    assert check(lambda p: boundary.centre_alignment(p, HEAD.roll(1, 0)), (w,))
    assert check(lambda p: controls.logit_distillation(STUDENT @ p.T, ANCHOR @ HEAD.T, 2.0), (w,))
    assert check(lambda t: boundary.elastic_boundary(STUDENT, LABELS, HEAD, radius, t, 0.5), (stretch,))
    assert check(lambda s: basis.orthonormal(s), (square.requires_grad_(),))


ZERO_AT_THE_ANCHOR = (
    "cosine", "l2", "prefixes", "soft head", "csd", "d3still", "raml", "ssp", "raw mse", "ugd"
)  # fmt: skip


@pytest.mark.parametrize("name", ZERO_AT_THE_ANCHOR)
def test_a_perfect_student_loses_nothing(name: str) -> None:
    assert ANCHORED[name](ANCHOR, ANCHOR).item() == pytest.approx(0, abs=1e-5)
    assert ANCHORED[name](STUDENT, ANCHOR).item() > 1e-3


@pytest.mark.parametrize("name", ANCHORED)
def test_a_turned_student_pays_where_the_loss_is_anchored(name: str) -> None:
    """The student has the anchor's relations exactly, in a space of its own: incompatible."""
    turn = torch.linalg.qr(unit(4, 4, seed=7)).Q
    turned = ANCHOR @ turn
    assert (ANCHORED[name](turned, ANCHOR) - ANCHORED[name](ANCHOR, ANCHOR)).abs() > 1e-2


@pytest.mark.parametrize("name", RELATIONAL)
def test_a_control_cannot_tell_a_turned_student(name: str) -> None:
    turn = torch.linalg.qr(unit(4, 4, seed=7)).Q
    loss = RELATIONAL[name]
    torch.testing.assert_close(loss(STUDENT @ turn, ANCHOR), loss(STUDENT, ANCHOR))
    assert loss(ANCHOR @ turn, ANCHOR).item() == pytest.approx(0, abs=1e-9)
    assert loss(STUDENT, ANCHOR) > 1e-3


def test_logits_of_an_own_head_cannot_tell_a_turned_student() -> None:
    turn = torch.linalg.qr(unit(4, 4, seed=7)).Q
    taught = controls.logit_distillation(ANCHOR @ turn @ (HEAD @ turn).T, ANCHOR @ HEAD.T, 2.0)
    assert taught.item() == pytest.approx(0, abs=1e-12)


def test_relational_losses_have_finite_gradients_at_equal_vectors() -> None:
    student = unit(1, 4).repeat(5, 1).requires_grad_()
    for loss in RELATIONAL.values():
        (gradient,) = torch.autograd.grad(loss(student, ANCHOR[:5]), student)
        assert gradient.isfinite().all()


def test_a_temperature_is_the_only_difference_between_csd_and_its_minimum() -> None:
    cold = neighbours.csd(ANCHOR, ANCHOR, GALLERY, 5, 1.0, 0.01)
    assert cold > neighbours.csd(ANCHOR, ANCHOR, GALLERY, 5, 0.01, 0.01) - 1e-12


def test_synthesised_prototypes_are_class_means_and_seen_classes_keep_theirs() -> None:
    labels = torch.tensor([0, 0, 1])
    means = heads.synthesised_prototypes(AXES, labels, 2)
    torch.testing.assert_close(means, rows((math.sqrt(0.5), math.sqrt(0.5), 0), (0, 0, 1)))
    kept = heads.synthesised_prototypes(AXES, labels, 2, head=-2 * AXES[:1], seen=torch.tensor([1]))
    torch.testing.assert_close(kept, torch.stack([means[0], -AXES[0]]))


def test_class_extents_are_the_smallest_cosines() -> None:
    vectors = rows((1, 0), (0.6, 0.8), (0, 1))
    extents = boundary.class_extents(vectors, torch.tensor([0, 0, 1]), torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(extents, rows((0.6, 1.0))[0])


def test_credible_items_are_the_nearest_of_every_class() -> None:
    far = F.normalize(rows((1, 0), (1, 0.1), (0, 1), (0, 1), (0.1, 1), (1, 0.05)), dim=1)
    known = Reference(far, torch.tensor([0, 0, 0, 1, 1, 0]))
    assert mixing.credible(known, 2, 0.75).tolist() == [True, True, False, True, True, True]
    assert mixing.credible(known, 2, 0.5).sum() == 3
    assert mixing.credible(known, 2, 1.0).all()


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (4, 3), (5, 9)])
def test_the_simplex_is_regular(classes: int, dim: int) -> None:
    vertices = stationary.d_simplex(classes, dim)
    assert vertices.shape == (classes, dim)
    expected = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64)
    torch.testing.assert_close(vertices @ vertices.T, expected.fill_diagonal_(1.0))


def test_the_simplex_is_turned_onto_the_centres() -> None:
    turn = torch.linalg.qr(unit(5, 5, seed=7)).Q
    vertices = stationary.d_simplex(4, 5)
    torch.testing.assert_close(stationary.turned_onto(vertices, vertices @ turn), vertices @ turn)


def test_a_basis_is_orthonormal() -> None:
    turn = basis.orthonormal(unit(5, 5))
    torch.testing.assert_close(turn @ turn.T, torch.eye(5, dtype=torch.float64))


def test_codebooks_find_the_clusters_and_repeat_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(40, 4, generator=generator, dtype=torch.float64)
    corners = rows((1, 0, 0, 1), (0, 1, 1, 0)).repeat(20, 1)
    fitted = quantised.fit_codebooks(corners + noise, 2, 2, seed=3)
    assert fitted.shape == (2, 2, 2)
    best = (fitted @ torch.eye(2, dtype=torch.float64)).amax(1)
    assert (best > 0.99).all()
    torch.testing.assert_close(quantised.fit_codebooks(corners + noise, 2, 2, seed=3), fitted)


def test_prefixes_halve_down_to_eight() -> None:
    assert prefix.halves(128) == (128, 64, 32, 16, 8)
    assert prefix.halves(20) == (20, 10)
    assert prefix.halves(4) == (4,)
