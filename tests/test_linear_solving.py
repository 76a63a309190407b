"""Losses, ridge regression and conjugate gradients: against hand-computed values and each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hetero.linear.head import Sums, left_out, with_one
from hetero.linear.jacobian import Jacobian
from hetero.linear.losses import (
    Targets,
    rescaled_one_hot,
    scaled_one_hot,
    square_loss,
    towards,
)
from hetero.linear.solving import conjugate_gradients, dual, iterated
from hetero.linear.tangent import Tangent
from hetero.linear.vectors import flat, shaped
from hetero_devices.errors import DataError, ModelError

LABELS = torch.tensor([0, 2, 1, 0, 2, 2])


@pytest.fixture(autouse=True)
def _double() -> object:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.double)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def small() -> tuple[Tangent, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(3 * 9, 3), nn.LeakyReLU(0.2)
    )
    return Tangent(net), torch.randn(6, 2, 3, 3)


def test_losses_have_the_values_computed_by_hand() -> None:
    outputs, labels = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([1, 0])
    assert float(square_loss(outputs, scaled_one_hot(labels, 2, 3.0))) == pytest.approx((1 + 1 + 9 + 1) / 2)
    # (1/2) (k (f_y - M)^2 + f_other^2): (5 * 1 + 1) / 2 = 3 and (5 * 9 + 1) / 2 = 23
    assert float(square_loss(outputs, rescaled_one_hot(labels, 2, 5.0, 3.0))) == pytest.approx(13)
    assert float(square_loss(outputs, towards(torch.zeros(2, 2)))) == pytest.approx(6 / 2)


def test_the_rescaled_loss_with_ones_is_the_mean_squared_error() -> None:
    outputs = torch.randn(6, 3)
    expected = nn.functional.mse_loss(outputs, nn.functional.one_hot(LABELS, 3).double())
    torch.testing.assert_close(square_loss(outputs, rescaled_one_hot(LABELS, 3)), expected)


def test_unusable_targets_are_refused() -> None:
    with pytest.raises(DataError, match=r"0\.\.1, found 0\.\.2"):
        scaled_one_hot(LABELS, 2)
    with pytest.raises(DataError, match="int64"):
        scaled_one_hot(LABELS.double(), 3)
    with pytest.raises(DataError, match="finite"):
        towards(torch.tensor([[float("nan")]]))
    with pytest.raises(DataError, match="below zero"):
        Targets(torch.ones(1, 1), -torch.ones(1, 1))
    with pytest.raises(DataError, match="positive factors"):
        rescaled_one_hot(LABELS, 3, own=0)


def test_products_with_the_jacobian_equal_the_stored_one() -> None:
    tangent, inputs = small()
    jacobian = Jacobian(tangent, inputs, block=4)
    stored = jacobian.stored()
    v, u = torch.randn(jacobian.width), torch.randn(6, 3)
    assert stored.shape == (6, 3, jacobian.width)
    torch.testing.assert_close(jacobian.times(v), stored @ v)
    torch.testing.assert_close(jacobian.transposed(u), torch.einsum("nk,nkp->p", u, stored))
    torch.testing.assert_close(flat(shaped(v, tangent.start())), v)


def test_a_jacobian_too_large_to_store_is_refused() -> None:
    tangent = Tangent(nn.Linear(2000, 400))
    with pytest.raises(ModelError, match="use conjugate gradients"):
        Jacobian(tangent, torch.zeros(2, 2000)).stored()


@pytest.mark.parametrize("targets", [scaled_one_hot(LABELS, 3), rescaled_one_hot(LABELS, 3, 5.0, 4.0)])
def test_conjugate_gradients_reach_the_closed_form_where_the_gradient_vanishes(targets: Targets) -> None:
    targets = Targets(targets.values.double(), None if targets.weights is None else targets.weights.double())
    tangent, inputs = small()
    jacobian = Jacobian(tangent, inputs)
    closed = dual(jacobian.stored(), targets.values - jacobian.outputs(), 0.1, targets.weights)
    solution = iterated(jacobian, targets, 0.1, tolerance=1e-12)
    torch.testing.assert_close(solution.vector, closed, rtol=1e-8, atol=1e-10)
    assert solution.residual <= 1e-12
    tangent.move(shaped(closed, tangent.start()))
    decay = sum(0.1 / 6 * p.square().sum() for p in tangent.update.parameters())
    (square_loss(tangent(inputs), targets) + decay).backward()  # type: ignore[no-untyped-call]
    assert max(float(p.grad.abs().max()) for p in tangent.update.parameters() if p.grad is not None) < 1e-10


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_unknowns() -> None:
    matrix = torch.diag(torch.tensor([1.0, 10.0, 100.0]))
    right = torch.tensor([1.0, 1.0, 1.0])
    solution = conjugate_gradients(lambda v: matrix @ v, right, tolerance=1e-12)
    torch.testing.assert_close(solution.vector, torch.tensor([1.0, 0.1, 0.01]))
    assert solution.steps == 3
    exact = conjugate_gradients(lambda v: matrix @ v, right, precondition=lambda v: v / matrix.diag())
    assert exact.steps == 1
    again = conjugate_gradients(lambda v: matrix @ v, right, start=solution.vector, tolerance=1e-9)
    assert again.steps == 0
    assert conjugate_gradients(lambda v: matrix @ v, 0 * right).steps == 0


@pytest.mark.parametrize("targets", [scaled_one_hot(LABELS, 3), rescaled_one_hot(LABELS, 3, 5.0, 4.0)])
def test_a_ridge_head_is_the_tangent_of_a_linear_layer(targets: Targets) -> None:
    targets = Targets(targets.values.double(), None if targets.weights is None else targets.weights.double())
    features = torch.randn(6, 4)
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    solution = iterated(Jacobian(Tangent(layer), features), targets, 0.3, tolerance=1e-13)
    delta = shaped(solution.vector, dict(layer.named_parameters()))
    head = Sums.of(with_one(features), targets).ridge(0.3)
    torch.testing.assert_close(torch.cat((delta["weight"], delta["bias"][:, None]), 1), head)


@pytest.mark.parametrize("targets", [scaled_one_hot(LABELS, 3), rescaled_one_hot(LABELS, 3, 5.0, 4.0)])
def test_left_out_predictions_of_a_head_equal_retraining(targets: Targets) -> None:
    targets = Targets(targets.values.double(), None if targets.weights is None else targets.weights.double())
    features = with_one(torch.randn(6, 4))
    predicted = left_out(features, targets, 0.5)
    for i in range(6):
        others = torch.arange(6) != i
        head = Sums.of(features[others], targets.rows(others)).ridge(0.5)
        torch.testing.assert_close(predicted[i], head @ features[i])


def test_sums_of_clients_add_and_subtract_exactly() -> None:
    features, targets = with_one(torch.randn(6, 4)), scaled_one_hot(LABELS, 3)
    one, other = (Sums.of(features[i], targets.rows(i)) for i in (slice(0, 4), slice(4, 6)))
    whole = Sums.of(features, targets)
    torch.testing.assert_close((one + other).ridge(0.2), whole.ridge(0.2))
    torch.testing.assert_close((whole - other).ridge(0.2), one.ridge(0.2))
    with pytest.raises(ModelError, match="6 samples cannot be removed from 4"):
        one - whole
    with pytest.raises(ModelError, match="positive"):
        whole.ridge(0)
    with pytest.raises(ModelError, match="positive"):
        dual(torch.zeros(1, 1, 1), torch.zeros(1, 1), 0)
