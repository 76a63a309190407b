"""The Jacobian of a linearised network on a set of inputs, by its products; never stored unless asked for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from hetero.linear.forward_mode import plain_kernels
from hetero.linear.tangent import Tangent
from hetero.linear.vectors import flat, shaped
from hetero_devices.errors import ModelError

_MOST = 2**28  # elements of a stored Jacobian: a gigabyte in float32


class Jacobian:
    """J of the tangent's network at w0 on N inputs: [N, K, P], P numbers for the parameters that move.

    block: inputs at a time, which bounds memory. Vectors float [P] are ordered as `tangent.names`.
    """

    def __init__(self, tangent: Tangent, inputs: Tensor, block: int = 64) -> None:
        self.tangent, self.inputs, self.block = tangent, inputs, block
        self.start = tangent.start()

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def width(self) -> int:
        """P: how many numbers move."""
        return sum(tensor.numel() for tensor in self.start.values())

    def rows(self, index: Tensor | slice) -> Jacobian:
        """That of some inputs, int64 [n]."""
        return Jacobian(self.tangent, self.inputs[index], self.block)

    @torch.no_grad()
    def outputs(self) -> Tensor:
        """f(X; w0), float [N, K]."""
        return torch.cat([self.tangent.network(part) for part in torch.split(self.inputs, self.block)])

    @torch.no_grad()
    def times(self, vector: Tensor) -> Tensor:
        """J v by forward mode: float [P] -> [N, K]."""
        direction = shaped(vector, self.start)
        return torch.cat(
            [self.tangent.along(part, direction)[1] for part in torch.split(self.inputs, self.block)]
        )

    def transposed(self, vector: Tensor) -> Tensor:
        """J' u by reverse mode: float [N, K] -> [P]."""
        parts = zip(torch.split(self.inputs, self.block), torch.split(vector, self.block), strict=True)
        total = torch.zeros_like(flat(self.start))
        for inputs, cotangent in parts:
            total += self._back(inputs, cotangent)
        return total

    def stored(self) -> Tensor:
        """float [N, K, P]; ModelError where that is too large to store: use products."""
        outputs = self.outputs()
        if outputs.numel() * self.width > _MOST:
            size = f"{outputs.shape[0]} x {outputs.shape[1]} x {self.width}"
            raise ModelError(f"a Jacobian of {size} numbers is not stored: use conjugate gradients")
        rows = [
            self._back(self.inputs[i : i + 1], unit[None])
            for i in range(len(self))
            for unit in torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
        ]
        return torch.stack(rows).view(*outputs.shape, -1)

    def _back(self, inputs: Tensor, cotangent: Tensor) -> Tensor:
        weights = {name: tensor.detach().requires_grad_() for name, tensor in self.start.items()}
        with torch.enable_grad(), plain_kernels():
            outputs = functional_call(self.tangent.network, weights, (inputs,))
            found = torch.autograd.grad(
                outputs, list(weights.values()), cotangent, allow_unused=True, materialize_grads=True
            )
        return torch.cat([gradient.reshape(-1) for gradient in found])
