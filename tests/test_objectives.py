"""Losses: known values, gradients in double precision, and what they need."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hetero.objectives.regression import cosine_regression
from hetero.objectives.softmax import margin_softmax
from hetero.objectives.terms import (
    FrozenHeadConfig,
    Given,
    MarginSoftmaxConfig,
    Objective,
    RegressionConfig,
    Supervision,
)
from hetero_devices.errors import RecipeError


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


def test_regression_is_half_the_squared_distance() -> None:
    student, anchor = unit(7, 5), unit(7, 5, seed=1)
    expected = 0.5 * (student - anchor).pow(2).sum(1).mean()
    torch.testing.assert_close(cosine_regression(student, anchor), expected)


def test_regression_of_known_vectors() -> None:
    axes = torch.eye(3, dtype=torch.float64)
    assert cosine_regression(axes, axes).item() == 0
    assert cosine_regression(axes, axes.roll(1, 0)).item() == 1
    assert cosine_regression(axes, -axes).item() == 2


def test_softmax_of_known_vectors() -> None:
    axes = torch.eye(3, dtype=torch.float64)
    labels = torch.arange(3)
    loss = margin_softmax(axes, 5 * axes, labels, scale=2.0, margin=0.25)  # prototypes are normalised
    assert loss.item() == pytest.approx(-math.log(math.exp(1.5) / (math.exp(1.5) + 2)))


def test_a_margin_only_adds_to_the_loss() -> None:
    z, w, y = unit(8, 4), unit(5, 4, seed=1), torch.arange(8) % 5
    assert margin_softmax(z, w, y, 8.0, 0.3) > margin_softmax(z, w, y, 8.0, 0.0)


def test_gradients_are_right_in_double_precision() -> None:
    z, target = unit(6, 4).requires_grad_(), unit(6, 4, seed=2)
    w, y = unit(3, 4, seed=1).requires_grad_(), torch.arange(6) % 3
    assert torch.autograd.gradcheck(lambda s: cosine_regression(s, target), (z,))
    assert torch.autograd.gradcheck(lambda s, p: margin_softmax(s, p, y, 4.0, 0.2), (z, w))


def test_terms_are_weighted_and_named() -> None:
    head = unit(3, 4, seed=1).float()
    terms = (RegressionConfig(weight=2.0), FrozenHeadConfig(weight=0.5, scale=4.0))
    objective = Objective(terms, Given(classes=3, dim=4, anchor=True, head=head))
    z, target, y = unit(6, 4).float(), unit(6, 4, seed=2).float(), torch.arange(6) % 3
    losses = objective(z, Supervision(y, target))
    torch.testing.assert_close(losses["0_regression"], 2 * cosine_regression(z, target))
    torch.testing.assert_close(losses["1_frozen_head"], 0.5 * margin_softmax(z, head, y, 4.0, 0.0))


def test_the_frozen_head_is_frozen_and_not_saved() -> None:
    given = Given(classes=3, dim=4, anchor=True, head=unit(3, 4).float())
    objective = Objective((FrozenHeadConfig(),), given)
    assert not list(objective.parameters())
    assert not objective.state_dict()


def test_a_trained_head_is_given_away() -> None:
    objective = Objective((MarginSoftmaxConfig(),), Given(classes=3, dim=4, anchor=False, head=None))
    head = objective.head()
    assert head is not None
    assert head.shape == (3, 4)
    assert not head.requires_grad


@pytest.mark.parametrize(
    ("term", "given", "message"),
    [
        (RegressionConfig(), Given(3, 4, False, None), "needs an anchor"),
        (FrozenHeadConfig(), Given(3, 4, True, None), "black box"),
        (FrozenHeadConfig(), Given(3, 4, True, torch.zeros(2, 4)), "the classes the anchor was trained on"),
    ],
)
def test_what_a_term_needs_is_said_when_it_is_built(
    term: RegressionConfig, given: Given, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Objective((term,), given)
