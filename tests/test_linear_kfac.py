"""K-FAC against the dense Gauss-Newton matrix, and what descent reaches with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hetero.linear.config import FinetuneConfig
from hetero.linear.fitting import Fitting, Lesson, LessonConfig
from hetero.linear.jacobian import Jacobian
from hetero.linear.kfac import Kfac
from hetero.linear.losses import Targets, square_loss, towards
from hetero.linear.measuring import Places
from hetero.linear.objective import preconditioner
from hetero.linear.solving import dual, iterated, largest_eigenvalue, normal
from hetero.linear.tangent import Tangent
from hetero.linear.vectors import flat, shaped
from hetero.models.build import build
from hetero.models.residual import ResidualConfig
from hetero.tensors import save_tensors
from hetero_devices.errors import ModelError


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.double)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def inverse(tangent: Tangent, kfac: Kfac, penalty: float) -> Tensor:
    """What `solve` multiplies with, as a matrix."""
    start = tangent.start()
    width = Jacobian(tangent, torch.zeros(1)).width
    return torch.stack([flat(kfac.solve(shaped(row, start), penalty)) for row in torch.eye(width)])


def gauss_newton(tangent: Tangent, inputs: Tensor, weights: Tensor | None = None) -> Tensor:
    j = Jacobian(tangent, inputs).stored().flatten(0, 1)
    c = torch.ones(len(j)) if weights is None else weights.flatten()
    return j.T @ (c[:, None] * j)


EXACT = {
    "linear": (nn.Linear(4, 3), (4,)),
    "convolution over its whole input": (nn.Conv2d(2, 3, 3), (2, 3, 3)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (4, 3, 3)),
    "depthwise, without bias": (nn.Conv2d(3, 3, 3, groups=3, bias=False), (3, 3, 3)),
    "dilated and padded": (nn.Conv2d(2, 2, 2, 3, 1, 2), (2, 3, 3)),
    "batch norm": (nn.BatchNorm2d(3), (3, 2, 2)),
    "layer norm": (nn.LayerNorm(4), (5, 4)),
}


@pytest.mark.parametrize(("layer", "shape"), EXACT.values(), ids=EXACT)
def test_one_layer_is_exact(layer: nn.Module, shape: tuple[int, ...]) -> None:
    if isinstance(layer, nn.BatchNorm2d):
        layer.running_mean = torch.randn(3)
        layer.running_var = torch.rand(3) + 0.5
    tangent = Tangent(nn.Sequential(layer.double(), nn.Flatten()))
    inputs = torch.randn(7, *shape)
    kfac = Kfac.measure(tangent, inputs, block=3)
    expected = gauss_newton(tangent, inputs) + 0.3 * torch.eye(len(inverse(tangent, kfac, 0.3)))
    torch.testing.assert_close(inverse(tangent, kfac, 0.3), torch.linalg.inv(expected))


def test_weights_of_outputs_are_exact() -> None:
    tangent, inputs = Tangent(nn.Linear(4, 3)), torch.randn(7, 4)
    weights = torch.tensor([1.0, 5.0, 0.0]).expand(7, 3)
    found = inverse(tangent, Kfac.measure(tangent, inputs, weights), 0.3)
    expected = gauss_newton(tangent, inputs, weights) + 0.3 * torch.eye(15)
    torch.testing.assert_close(found, torch.linalg.inv(expected))


def test_a_layer_inside_has_the_kronecker_product_of_its_means() -> None:
    first, second = nn.Linear(2, 3, bias=False), nn.Linear(3, 2)
    tangent, inputs = Tangent(nn.Sequential(first, nn.Tanh(), second), moving=("0",)), torch.randn(5, 2)
    with torch.no_grad():
        slopes = 1 - torch.tanh(first(inputs)).square()  # [5, 3]
        g = torch.einsum("no,ko,np,kp->op", slopes, second.weight, slopes, second.weight) / 5
        a = inputs.T @ inputs / 5
    expected = 5 * torch.kron(g, a) + 0.1 * torch.eye(6)
    found = inverse(tangent, Kfac.measure(tangent, inputs), 0.1)
    torch.testing.assert_close(found, torch.linalg.inv(expected))


def test_random_signs_have_the_exact_expectation_and_a_seed() -> None:
    tangent = Tangent(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 6)))
    inputs = torch.randn(20, 4)
    exact = inverse(tangent, Kfac.measure(tangent, inputs), 1.0)
    drawn_ = [inverse(tangent, Kfac.measure(tangent, inputs, draws=300, seed=s), 1.0) for s in (0, 0, 1)]
    torch.testing.assert_close(drawn_[0], drawn_[1], rtol=0, atol=0)
    assert not torch.equal(drawn_[0], drawn_[2])
    assert float((drawn_[0] - exact).norm() / exact.norm()) < 0.02


class Scaled(nn.Module):
    """A layer that K-FAC does not know."""

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.gain = nn.Parameter(gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


def test_other_layers_have_the_diagonal_and_unused_ones_are_divided_by_the_shift() -> None:
    net = Scaled(torch.tensor([1.0, 2.0]))
    net.unused = nn.Linear(1, 1)
    inputs = torch.randn(9, 2)
    tangent = Tangent(net)
    kfac = Kfac.measure(tangent, inputs, block=4)
    found = kfac.solve({n: torch.ones_like(w) for n, w in tangent.start().items()}, 0.5)
    torch.testing.assert_close(found["gain"], 1 / (inputs.square().sum(0) + 0.5))
    torch.testing.assert_close(found["unused.bias"], torch.tensor([2.0]))


def test_damping_is_per_sample_and_some_shift_is_needed() -> None:
    tangent, inputs = Tangent(nn.Linear(2, 1)), torch.randn(5, 2)
    kfac = Kfac.measure(tangent, inputs)
    vector = {"weight": torch.ones(1, 2), "bias": torch.ones(1)}
    damped, plain = kfac.solve(vector, 1.0, damping=0.2), kfac.solve(vector, 2.0)
    torch.testing.assert_close(damped["weight"], plain["weight"])
    with pytest.raises(ModelError, match="neither penalty nor damping"):
        kfac.solve(vector, 0.0)


def test_it_is_stored_with_the_network_it_is_of(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 2, groups=2),
        nn.BatchNorm2d(4),
        Scaled(torch.ones(4, 1, 1)),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    tangent, inputs = Tangent(net), torch.randn(5, 2, 2, 2)
    kfac = Kfac.measure(tangent, inputs)
    kfac.save(tmp_path / "kfac.safetensors")
    again = Kfac.load(tmp_path / "kfac.safetensors", tangent)
    torch.testing.assert_close(inverse(tangent, again, 0.1), inverse(tangent, kfac, 0.1), rtol=0, atol=0)
    with torch.no_grad():
        net[4].bias.add_(1)  # type: ignore[operator]
    with pytest.raises(ModelError, match="of another network"):
        Kfac.load(tmp_path / "kfac.safetensors", Tangent(net))
    save_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(ModelError, match="of another network"):
        Kfac.load(tmp_path / "other.safetensors", tangent)


def problem() -> tuple[Tangent, Tensor, Targets]:
    """Badly scaled inputs of the first of two layers: a condition number of some 10^4 at a penalty of 0.1."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 3))
    inputs = torch.randn(40, 6) * torch.tensor([10.0, 3.0, 1.0, 0.3, 0.1, 0.03])
    return Tangent(net, moving=("0",)), inputs, towards(torch.randn(40, 3))


def optimum(tangent: Tangent, inputs: Tensor, targets: Targets, penalty: float) -> tuple[Tensor, float]:
    """In closed form, with its loss."""
    jacobian = Jacobian(tangent, inputs)
    found = dual(jacobian.stored(), targets.values - jacobian.outputs(), penalty)
    errors = jacobian.outputs() + jacobian.times(found) - targets.values
    return found, float(errors.square().sum() + penalty * found.square().sum()) / len(inputs)


def trained(tangent: Tangent, inputs: Tensor, targets: Targets, rate: float, **asked: Any) -> list[float]:
    """The loss after each pass over all samples, as `hetero finetune` trains; asked: see `fitting`."""
    losses: list[float] = []

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            decay = asked["penalty"] / len(inputs) * flat(tangent.delta()).square().sum()
            losses.append(float(square_loss(model(inputs), targets) + decay))
        return 0.0

    fitting(tangent, inputs, rate, **asked).run(Lesson(inputs, targets.values), score)
    return losses


def fitting(
    tangent: Tangent, inputs: Tensor, rate: float, *, penalty: float, epochs: int, kfac: bool, folder: Path
) -> Fitting:
    """In one batch, by K-FAC or plain; rates in units of the largest stable one."""
    decay = 2 * penalty / len(inputs)  # of the mean, as a penalty of the sum
    lesson = LessonConfig(epochs=epochs, batch=len(inputs), decay=decay)
    config = FinetuneConfig(lesson=lesson, damping=1e-9, draws=None)
    better = preconditioner(tangent, inputs, config, kfac)
    return Fitting(tangent, lambda y, t: square_loss(y, towards(t)), rate, lesson, folder, 0, better)


def test_training_with_kfac_reaches_the_closed_form(tmp_path: Path) -> None:
    tangent, inputs, targets = problem()
    expected, loss = optimum(tangent, inputs, targets, 1.0)
    losses = trained(tangent, inputs, targets, 0.5, penalty=1.0, epochs=400, kfac=True, folder=tmp_path)
    torch.testing.assert_close(flat(tangent.delta()).detach(), expected, rtol=1e-5, atol=1e-6)
    assert losses[-1] == pytest.approx(loss)
    solved = iterated(Jacobian(tangent, inputs), targets, 1.0, tolerance=1e-10)
    torch.testing.assert_close(solved.vector, expected, rtol=1e-5, atol=1e-6)


def passes_to(goal: float, kfac: bool, folder: Path) -> int:
    """The fewest passes, over a grid of rates, until the loss stays below `goal`; 300 are tried."""
    found = []
    for rate in (4.0**-k for k in range(5)):
        tangent, inputs, targets = problem()
        place = folder / f"{kfac}-{rate:g}"
        losses = trained(tangent, inputs, targets, rate, penalty=0.1, epochs=300, kfac=kfac, folder=place)
        above = [step for step, loss in enumerate(losses) if not loss < goal]
        found.append((above[-1] + 2) if above else 1)
    return min(found)


def test_kfac_needs_several_times_fewer_passes_than_plain_descent(tmp_path: Path) -> None:
    goal = 1.01 * optimum(*problem(), 0.1)[1]
    with_kfac, plain = passes_to(goal, True, tmp_path), passes_to(goal, False, tmp_path)
    assert plain >= 5 * with_kfac, (plain, with_kfac)


def test_kfac_shortens_conjugate_gradients_too() -> None:
    tangent, inputs, targets = problem()
    jacobian, kfac = Jacobian(tangent, inputs), Kfac.measure(tangent, inputs)

    def precondition(vector: Tensor) -> Tensor:
        return flat(kfac.solve(shaped(vector, tangent.start()), 0.1))

    plain = iterated(jacobian, targets, 0.1, tolerance=1e-8)
    helped = iterated(jacobian, targets, 0.1, tolerance=1e-8, precondition=precondition)
    torch.testing.assert_close(helped.vector, plain.vector, rtol=1e-4, atol=1e-5)
    assert 1.5 * helped.steps < plain.steps, (helped.steps, plain.steps)


def test_the_largest_eigenvalue_bounds_the_rate() -> None:
    tangent, inputs, targets = problem()
    jacobian = Jacobian(tangent, inputs)
    operator = normal(jacobian, targets, 0.1)
    expected = float(torch.linalg.eigvalsh(gauss_newton(tangent, inputs)).max()) + 0.1
    assert largest_eigenvalue(operator, jacobian.width) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("places", ["expand", "reduce"])
def test_a_whole_network_is_preconditioned(places: Places, tmp_path: Path) -> None:
    """Convolutions, batch norms and a head in float32: a positive map, every parameter in a block."""
    torch.set_default_dtype(torch.float32)
    net = build(ResidualConfig(widths=(8, 16), depths=(1, 1), dim=4, activation="leaky_relu"))
    inputs, targets = torch.randn(12, 3, 8, 8), towards(torch.randn(12, 4))
    tangent = Tangent(net)
    kfac = Kfac.measure(tangent, inputs, places=places, block=5)
    assert {name for block in kfac.blocks.values() for name in block.names} == set(tangent.names)
    for seed in range(3):
        vector = torch.randn(Jacobian(tangent, inputs).width, generator=torch.Generator().manual_seed(seed))
        divided = flat(kfac.solve(shaped(vector, tangent.start()), 1.0))
        assert 0 < float(vector @ divided) < float(vector @ vector)
    losses = trained(tangent, inputs, targets, 0.5, penalty=1.0, epochs=10, kfac=True, folder=tmp_path)
    assert losses[-1] < 0.9 * losses[0]
