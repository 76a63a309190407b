"""Leave-one-out, removal and composition: all against training again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hetero.linear.influence import by_conjugate_gradients, factorised, influence, left_out, removed
from hetero.linear.jacobian import Jacobian
from hetero.linear.losses import Targets, rescaled_one_hot, scaled_one_hot, towards
from hetero.linear.solving import Linear, dual, iterated
from hetero.linear.tangent import Tangent
from hetero.linear.updates import TangentUpdate, composed
from hetero.linear.vectors import shaped
from hetero.tensors import save_tensors
from hetero_devices.errors import ModelError

PENALTY = 0.2
LABELS = torch.tensor([0, 2, 1, 0, 2, 1, 0])


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.double)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def problem(kind: str) -> tuple[Jacobian, Targets]:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8, 3)
    )
    targets = scaled_one_hot(LABELS, 3) if kind == "plain" else rescaled_one_hot(LABELS, 3, 5.0, 4.0)
    return Jacobian(Tangent(net), torch.randn(7, 1, 3, 3)), targets


def trained(jacobian: Jacobian, targets: Targets) -> Tensor:
    """The optimum in closed form."""
    return dual(jacobian.stored(), targets.values - jacobian.outputs(), PENALTY, targets.weights)


def solver(way: str, jacobian: Jacobian, targets: Targets) -> Linear:
    if way == "Cholesky":
        return factorised(jacobian, targets, PENALTY)
    return by_conjugate_gradients(jacobian, targets, PENALTY, tolerance=1e-10)


@pytest.mark.parametrize("kind", ["plain", "weighted"])
@pytest.mark.parametrize("way", ["Cholesky", "conjugate gradients"])
def test_leaving_one_out_equals_training_without_it(kind: str, way: str) -> None:
    jacobian, targets = problem(kind)
    update = trained(jacobian, targets)
    predicted = left_out(update, jacobian, targets, solver(way, jacobian, targets))
    for i in (0, 4):
        others = torch.arange(7) != i
        without = trained(jacobian.rows(others), targets.rows(others))
        one = jacobian.rows(torch.tensor([i]))
        torch.testing.assert_close(
            predicted[i : i + 1], one.outputs() + one.times(without), rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize("kind", ["plain", "weighted"])
def test_influence_is_the_true_change_of_a_prediction(kind: str) -> None:
    jacobian, targets = problem(kind)
    tests = Jacobian(jacobian.tangent, torch.randn(2, 1, 3, 3))
    update = trained(jacobian, targets)
    found = influence(update, jacobian, targets, factorised(jacobian, targets, PENALTY), tests)
    assert found.shape == (7, 2, 3)
    others = torch.arange(7) != 3
    without = trained(jacobian.rows(others), targets.rows(others))
    torch.testing.assert_close(found[3], tests.times(update) - tests.times(without))


@pytest.mark.parametrize("kind", ["plain", "weighted"])
def test_removing_a_client_equals_training_without_it(kind: str) -> None:
    jacobian, targets = problem(kind)
    client, others = torch.tensor([1, 2, 5]), torch.tensor([0, 3, 4, 6])
    expected = trained(jacobian.rows(others), targets.rows(others))
    update = trained(jacobian, targets)
    solve = factorised(jacobian, targets, PENALTY)
    found = removed(update, jacobian.rows(client), targets.rows(client), solve)
    torch.testing.assert_close(found.update, expected)
    rest = jacobian.rows(others)
    again = iterated(rest, targets.rows(others), PENALTY, start=update, tolerance=1e-10)
    torch.testing.assert_close(again.vector, expected, rtol=1e-6, atol=1e-7)


def test_an_unfinished_solve_is_named() -> None:
    jacobian, targets = problem("plain")
    solve = by_conjugate_gradients(jacobian, targets, 1e-6, tolerance=1e-12, steps=2)
    with pytest.raises(ModelError, match="allow more steps"):
        solve(torch.randn(jacobian.width))


def test_averaged_updates_predict_the_average() -> None:
    jacobian, targets = problem("plain")
    tangent = jacobian.tangent
    updates = []
    for part in (torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5, 6])):
        tangent.move(shaped(trained(jacobian.rows(part), targets.rows(part)), tangent.start()))
        updates.append(TangentUpdate.of(tangent))
    images = torch.randn(2, 1, 3, 3)
    outputs = []
    for update in (*updates, composed(updates, [0.25, 0.75])):
        update.into(tangent)
        outputs.append(tangent(images))
    torch.testing.assert_close(outputs[2], 0.25 * outputs[0] + 0.75 * outputs[1])


def test_ridge_solutions_add_up_where_their_features_are_orthogonal() -> None:
    layer = nn.Linear(4, 2, bias=False)
    tangent = Tangent(layer)
    features, targets = torch.zeros(6, 4), towards(torch.randn(6, 2))
    features[:3, :2], features[3:, 2:] = torch.randn(3, 2), torch.randn(3, 2)
    jacobian = Jacobian(tangent, features)
    updates = []
    for part in (slice(0, 3), slice(3, 6)):
        delta = trained(jacobian.rows(part), targets.rows(part))
        updates.append(TangentUpdate(tangent.digest, shaped(delta, tangent.start())))
    expected = shaped(trained(jacobian, targets), tangent.start())
    torch.testing.assert_close(composed(updates).delta["weight"], expected["weight"])


def test_updates_of_different_layers_of_one_network_add_up() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    first, second = Tangent(net, moving=("0",)), Tangent(net, moving=("1",))
    for tangent in (first, second):
        tangent.move({name: torch.randn_like(w) for name, w in tangent.start().items()})
    whole, inputs = Tangent(net), torch.randn(3, 2)
    composed([TangentUpdate.of(first), TangentUpdate.of(second)]).into(whole)
    torch.testing.assert_close(whole(inputs), first(inputs) + second(inputs) - net(inputs))
    with pytest.raises(ModelError, match="moves layers that this tangent keeps"):
        TangentUpdate.of(whole).into(first)


def test_updates_of_other_networks_are_refused(tmp_path: Path) -> None:
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    update = TangentUpdate.of(Tangent(net))
    update.save(tmp_path / "update.safetensors")
    again = TangentUpdate.load(tmp_path / "update.safetensors")
    assert again.digest == update.digest
    again.into(Tangent(net))
    with pytest.raises(ModelError, match="another network"):
        again.into(Tangent(other))
    with pytest.raises(ModelError, match="one w0"):
        composed([again, TangentUpdate.of(Tangent(other))])
    with pytest.raises(ModelError, match="1 updates with 2 weights"):
        composed([again], [1, 2])
    with pytest.raises(ModelError, match="at least one"):
        composed([])


def test_files_that_are_no_updates_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ModelError, match="cannot read"):
        TangentUpdate.load(path)
    save_tensors(path, {"weight": torch.zeros(2)})
    with pytest.raises(ModelError, match="no tangent update"):
        TangentUpdate.load(path)
    TangentUpdate("0", {"weight": torch.tensor([float("nan")])}).save(path)
    with pytest.raises(ModelError, match="NaN"):
        TangentUpdate.load(path)
