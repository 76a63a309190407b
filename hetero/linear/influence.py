"""What a sample, or a client, contributed to an optimum, and the optimum without it: exact, not estimated.

The objective is quadratic, so that leaving samples R out changes M = J'CJ + penalty I by a matrix of low
rank. With S = J_R M^-1 J_R' and errors e = J_R d + f0 - y at the optimum d (Woodbury; for one sample and one
output, the hat-matrix formula of ridge regression):

    d without R = d + M^-1 J_R' (I - C S)^-1 C e

Only the update at the optimum, the samples in question and products with M^-1 are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetero.linear.jacobian import Jacobian
from hetero.linear.losses import Targets
from hetero.linear.solving import Linear, conjugate_gradients, normal
from hetero_devices.errors import ModelError


def factorised(jacobian: Jacobian, targets: Targets, penalty: float) -> Linear:
    """v -> M^-1 v by a Cholesky factor of M, float [P, P]: few parameters. ModelError if J is too large."""
    rows = jacobian.stored().flatten(0, 1)
    matrix = rows.T @ targets.weighted(rows.new_ones(targets.values.shape)).flatten()[:, None].mul(rows)
    factor = torch.linalg.cholesky(matrix + penalty * torch.eye(len(matrix)).to(matrix))
    return lambda vector: torch.cholesky_solve(vector[:, None], factor)[:, 0]


def by_conjugate_gradients(
    jacobian: Jacobian,
    targets: Targets,
    penalty: float,
    *,
    precondition: Linear = lambda vector: vector,
    tolerance: float = 1e-6,
    steps: int = 500,
) -> Linear:
    """v -> M^-1 v by conjugate gradients; ModelError where they do not reach the tolerance in `steps`."""
    operator = normal(jacobian, targets, penalty)

    def solve(vector: Tensor) -> Tensor:
        found = conjugate_gradients(
            operator, vector, precondition=precondition, tolerance=tolerance, steps=steps
        )
        if found.residual > tolerance:
            raise ModelError(
                f"conjugate gradients stopped at a residual of {found.residual:.1e}: allow more steps, a "
                "larger tolerance or penalty, or precondition them"
            )
        return found.vector

    return solve


@dataclass(frozen=True)
class Removal:
    """Samples and what becomes of an optimum without them.

    update: float [P], of the others alone; outputs: float [n, K], what it predicts for the samples left out.
    """

    update: Tensor
    outputs: Tensor


def removed(update: Tensor, samples: Jacobian, targets: Targets, solve: Linear) -> Removal:
    """The optimum without some of its samples, as if they had never been there.

    update: w* - w0 with them, float [P]; samples, targets: the n to remove; solve: M^-1 with them. Takes n K
    solves: for more than some samples retrain instead, by `solving.iterated` on the others from `update`.
    """
    rows = samples.stored()  # [n, K, P]
    shape, rows = rows.shape[:2], rows.flatten(0, 1)
    divided = torch.stack([solve(row) for row in rows])
    before = samples.outputs() + (rows @ update).view(shape)
    pull = targets.weighted(before - targets.values).flatten()
    weights = targets.weighted(torch.ones_like(before)).flatten()
    gain = rows @ divided.T  # S, [n K, n K]
    identity = torch.eye(len(gain), dtype=gain.dtype, device=gain.device)
    moves = torch.linalg.solve(identity - weights[:, None] * gain, pull)
    return Removal(update + divided.T @ moves, before + (gain @ moves).view(shape))


def left_out(update: Tensor, jacobian: Jacobian, targets: Targets, solve: Linear) -> Tensor:
    """What the model trained without sample i predicts for it, for every i: float [N, K].

    Arguments as `removed`, of the whole training set. N K solves. For heads alone see `head.left_out`.
    """
    each = torch.arange(len(jacobian)).split(1)  # type: ignore[no-untyped-call]
    rows = [removed(update, jacobian.rows(i), targets.rows(i), solve).outputs for i in each]
    return torch.cat(rows)


def influence(update: Tensor, jacobian: Jacobian, targets: Targets, solve: Linear, tests: Jacobian) -> Tensor:
    """What each training sample adds to each prediction: float [N, tests, K].

    Entry i, t: prediction for test t with sample i, minus that of the model trained without it. Exact, not
    the first-order estimate of Koh & Liang (ICML 2017), which would leave the factor (I - C S)^-1 out.
    """
    each = torch.arange(len(jacobian)).split(1)  # type: ignore[no-untyped-call]
    without = [removed(update, jacobian.rows(i), targets.rows(i), solve).update for i in each]
    return torch.stack([tests.times(update - other) for other in without])
