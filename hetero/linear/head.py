"""Ridge regression of a linear head on fixed features: the closed form, from sums that add and subtract."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hetero.linear.losses import Targets
from hetero_devices.errors import ModelError


@dataclass(frozen=True)
class Sums:
    """What ridge regression needs of the data, as sums over samples: those of clients add, and subtract.

    square: sum_i c_ik p_i p_i', float64 [1, D, D], or [K, D, D] where weights differ among outputs;
    product: sum_i c_ik p_i y_ik, float64 [K, D]; samples: how many. p: features with a 1 behind (`with_one`).
    """

    square: Tensor
    product: Tensor
    samples: int

    @classmethod
    def of(cls, features: Tensor, targets: Targets) -> Sums:
        """features: float [N, D], as `with_one` makes them; in double precision, as sums of many must be."""
        p, y = features.double(), targets.values.double()
        if targets.weights is None:
            return cls((p.T @ p)[None], y.T @ p, len(p))
        c = targets.weights.double()
        return cls(torch.einsum("nk,nd,ne->kde", c, p, p), (c * y).T @ p, len(p))

    def __add__(self, other: Sums) -> Sums:
        """Of both data sets together: exact merging."""
        return Sums(self.square + other.square, self.product + other.product, self.samples + other.samples)

    def __sub__(self, other: Sums) -> Sums:
        """Without the samples of `other`, which are among these: exact removal. ModelError if it has more."""
        if other.samples > self.samples:
            raise ModelError(f"{other.samples} samples cannot be removed from {self.samples}")
        return Sums(self.square - other.square, self.product - other.product, self.samples - other.samples)

    def ridge(self, penalty: float) -> Tensor:
        """argmin_W sum_i sum_k c_ik (W_k p_i - y_ik)^2 + penalty |W|^2 -> float64 [K, D].

        To decay towards given weights W0 instead of zero, regress on y - W0 p and add W0.
        """
        if not penalty > 0:
            raise ModelError(f"a penalty of {penalty} leaves the head open: give a positive one")
        dim = self.square.shape[-1]
        matrix = self.square + penalty * torch.eye(dim, dtype=self.square.dtype)
        factor = torch.linalg.cholesky(matrix)
        if len(matrix) == 1:
            return torch.cholesky_solve(self.product.T, factor[0]).T
        return torch.cholesky_solve(self.product[:, :, None], factor)[:, :, 0]


def with_one(features: Tensor) -> Tensor:
    """float [N, D] -> [N, D + 1], the last a 1: a bias that decays like a weight."""
    return torch.cat((features, torch.ones_like(features[:, :1])), 1)


def left_out(features: Tensor, targets: Targets, penalty: float) -> Tensor:
    """What a ridge head trained without sample i predicts for it, for every i -> float64 [N, K].

    By the hat matrix H = P (P'CP + penalty I)^-1 P'C: y_i - (y_i - f_i) / (1 - H_ii); exact, in one solve.
    features: float [N, D], as `Sums.of` takes them.
    """
    sums = Sums.of(features, targets)
    p, y = features.double(), targets.values.double()
    dim = p.shape[1]
    inverse = torch.linalg.inv(sums.square + penalty * torch.eye(dim, dtype=p.dtype))  # [1 or K, D, D]
    lengths = torch.einsum("nd,kde,ne->nk", p, inverse, p)
    hat = lengths * (1 if targets.weights is None else targets.weights.double())
    return y - (y - p @ sums.ridge(penalty).T) / (1 - hat)
