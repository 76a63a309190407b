"""Optima of the quadratic objective: in closed form where it is small, by conjugate gradients elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hetero.linear.jacobian import Jacobian
from hetero.linear.losses import Targets
from hetero_devices.errors import ModelError

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """vector: float [P]; steps: how many it took; residual: |b - A x| / |b| at the end."""

    vector: Tensor
    steps: int
    residual: float


def conjugate_gradients(
    operator: Linear,
    right: Tensor,
    *,
    start: Tensor | None = None,
    precondition: Linear = lambda vector: vector,
    tolerance: float = 1e-6,
    steps: int = 500,
) -> Solution:
    """x with A x = b for a symmetric positive definite A (Hestenes & Stiefel, 1952), preconditioned.

    operator: v -> A v; right: b, float [P]; precondition: v -> about A^-1 v, symmetric and positive. Stops at
    |b - A x| <= tolerance |b| or after `steps`; `Solution.residual` tells which.
    """
    found = torch.zeros_like(right) if start is None else start
    rest = right if start is None else right - operator(found)
    ahead = direction = precondition(rest)
    decrease = torch.dot(rest, ahead)
    done, goal = 0, tolerance * float(right.norm())
    while done < steps and float(rest.norm()) > goal:
        image = operator(direction)
        length = decrease / torch.dot(direction, image)
        found = found + length * direction
        rest = rest - length * image
        ahead = precondition(rest)
        before, decrease = decrease, torch.dot(rest, ahead)
        direction = ahead + decrease / before * direction
        done += 1
    return Solution(found, done, float(rest.norm() / right.norm().clamp(min=1e-300)))


def largest_eigenvalue(operator: Linear, width: int, steps: int = 30, seed: int = 0) -> float:
    """Of a symmetric positive map, or of a product P^-1 M of two, by power iteration from random numbers.

    operator: v -> A v for float [width]. A descent at `rate` converges for rate < 2 / it, 1 / it is safe.
    """
    vector = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    length = vector.norm()
    for _ in range(steps):
        vector = operator(vector / length)
        length = vector.norm()
    return float(length)


def normal(jacobian: Jacobian, targets: Targets, penalty: float) -> Linear:
    """v -> (J'CJ + penalty I) v, the matrix of the normal equations, by one pass forward and one back."""
    return lambda vector: jacobian.transposed(targets.weighted(jacobian.times(vector))) + penalty * vector


def right_side(jacobian: Jacobian, targets: Targets) -> Tensor:
    """J'C (Y - f(X; w0)), float [P]."""
    return jacobian.transposed(targets.weighted(targets.values - jacobian.outputs()))


def iterated(
    jacobian: Jacobian,
    targets: Targets,
    penalty: float,
    *,
    start: Tensor | None = None,
    precondition: Linear = lambda vector: vector,
    tolerance: float = 1e-6,
    steps: int = 500,
) -> Solution:
    """w* - w0 of the whole network by conjugate gradients on the normal equations; ModelError as `dual`."""
    _check(penalty)
    return conjugate_gradients(
        normal(jacobian, targets, penalty),
        right_side(jacobian, targets),
        start=start,
        precondition=precondition,
        tolerance=tolerance,
        steps=steps,
    )


def dual(jacobian: Tensor, residuals: Tensor, penalty: float, weights: Tensor | None = None) -> Tensor:
    """J' C^1/2 (C^1/2 J J' C^1/2 + penalty I)^-1 C^1/2 (Y - f0) -> w* - w0, float [P].

    The optimum in closed form, for few samples. jacobian: float [N, K, P]; residuals: Y - f(X; w0), float
    [N, K]; weights: c, float [N, K]. ModelError unless the penalty is positive.
    """
    _check(penalty)
    matrix, right = jacobian.flatten(0, 1), residuals.flatten()
    if weights is not None:
        root = weights.flatten().sqrt()
        matrix, right = root[:, None] * matrix, root * right
    gram = matrix @ matrix.T + penalty * torch.eye(len(right), dtype=right.dtype, device=right.device)
    return matrix.T @ torch.cholesky_solve(right[:, None], torch.linalg.cholesky(gram))[:, 0]


def _check(penalty: float) -> None:
    if not penalty > 0:
        raise ModelError(f"a penalty of {penalty} leaves the optimum open: give a positive one")
