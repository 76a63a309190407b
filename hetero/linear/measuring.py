"""Measuring K-FAC's factors over batches of a training set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hetero.linear.blocks import Block, Dense, Diagonal, Kronecker
from hetero.linear.factors import KRONECKER, NORMS, Use, layer_inputs, layer_outputs, norm_jacobian
from hetero.linear.forward_mode import plain_kernels
from hetero.linear.tangent import Tangent

Places = Literal["expand", "reduce"]
"""Layers used at many places: derivatives there taken as uncorrelated, or inputs as alike (see `Kfac`)."""

_FEW = 64  # samples for the diagonal of parameters of other layers: each needs a pass of its own


class Measuring:
    """Sums over samples, layer by layer."""

    def __init__(self, tangent: Tangent, places: Places) -> None:
        self.shared = places
        self.network = tangent.network
        self.parts = _parts(tangent)
        self.rest = _rest(tangent, self.parts)
        self.sums: dict[str, Tensor] = {}
        self.places: dict[str, int] = {}
        self.samples = self.looked_at = 0

    def add(
        self, inputs: Tensor, weights: Tensor | None, draws: int | None, generator: torch.Generator
    ) -> None:
        """One batch; arguments as `Kfac.measure`."""
        with torch.enable_grad(), plain_kernels(), self._watched() as uses:
            outputs = self.network(inputs.clone().requires_grad_())
        for name, use in uses:
            self._add_inputs(name, use)
        ends = [use.output for _, use in uses]
        for cotangent in _cotangents(outputs, weights, draws, generator) if ends else ():
            found = torch.autograd.grad(outputs, ends, cotangent, retain_graph=True, allow_unused=True)
            for (name, use), gradient in zip(uses, found, strict=True):
                if gradient is not None:
                    self._add_outputs(name, use, gradient)
        self._add_rest(inputs, outputs.detach(), weights, generator)
        self.samples += len(inputs)

    def blocks(self) -> dict[str, Block]:
        """The sums as blocks by layer."""
        made = {name: self._block(name, kinds) for name, kinds in self.parts.items()}
        scale = self.samples / max(1, self.looked_at)
        rest = {name: Diagonal((name,), self.sums[name] * scale) for name in self.rest}
        return {**{name: block for name, block in made.items() if block is not None}, **rest}

    def _block(self, name: str, kinds: tuple[str, ...]) -> Block | None:
        names = tuple(_join(name, kind) for kind in kinds)
        if f"{name}|outputs" in self.sums:
            # sum over samples of mean over places: G; mean over samples of sum over places: A
            inputs = self.sums[f"{name}|inputs"] / self.samples
            return Kronecker.of(names, inputs, self.sums[f"{name}|outputs"] / self.places[name])
        return Dense.of(names, self.sums[name]) if name in self.sums else None

    @contextmanager
    def _watched(self) -> Iterator[list[tuple[str, Use]]]:
        uses: list[tuple[str, Use]] = []

        def watch(name: str) -> Any:
            def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                uses.append((name, Use(module, inputs[0].detach(), output)))

            return keep

        hooks = [self.network.get_submodule(name).register_forward_hook(watch(name)) for name in self.parts]
        try:
            yield uses
        finally:
            for hook in hooks:
                hook.remove()

    def _add_inputs(self, name: str, use: Use) -> None:
        if isinstance(use.module, KRONECKER):
            a = layer_inputs(use.module, use.input, bias="bias" in self.parts[name])
            a = a.mean(1, keepdim=True) if self.shared == "reduce" else a
            self.places[name] = a.shape[1]
            self._sum(f"{name}|inputs", torch.einsum("ntgi,ntgj->gij", a, a))

    def _add_outputs(self, name: str, use: Use, gradient: Tensor) -> None:
        if isinstance(use.module, KRONECKER):
            g = layer_outputs(use.module, gradient)
            g = g.sum(1, keepdim=True) if self.shared == "reduce" else g
            self._sum(f"{name}|outputs", torch.einsum("ntgo,ntgp->gop", g, g))
        else:
            both = dict(zip(("weight", "bias"), norm_jacobian(use.module, use, gradient), strict=True))
            j = torch.cat([both[kind] for kind in self.parts[name]], 1)
            self._sum(name, j.T @ j)

    def _add_rest(
        self, inputs: Tensor, outputs: Tensor, weights: Tensor | None, generator: torch.Generator
    ) -> None:
        """Squared derivatives by the remaining parameters, for random signs, sample by sample."""
        if not self.rest:
            return
        start = {name: self.network.get_parameter(name).detach().requires_grad_() for name in self.rest}
        (cotangent,) = _cotangents(outputs, weights, 1, generator)
        for row in range(min(len(inputs), _FEW - self.looked_at)):
            with torch.enable_grad(), plain_kernels():
                found = torch.func.functional_call(self.network, start, (inputs[row : row + 1],))
            gradients = torch.autograd.grad(
                found,
                list(start.values()),
                cotangent[row : row + 1],
                allow_unused=True,
                materialize_grads=True,
            )
            for name, gradient in zip(start, gradients, strict=True):
                self._sum(name, gradient.square())
            self.looked_at += 1

    def _sum(self, name: str, tensor: Tensor) -> None:
        self.sums[name] = self.sums[name] + tensor.detach() if name in self.sums else tensor.detach()


def _cotangents(
    outputs: Tensor, weights: Tensor | None, draws: int | None, generator: torch.Generator
) -> Iterator[Tensor]:
    """Vectors v of outputs, float [N, K], whose sum of v v' is, or has the expectation, diag(c)."""
    root = torch.ones_like(outputs) if weights is None else weights.sqrt()
    if draws is None:
        for column in range(outputs.shape[1]):
            only = torch.zeros_like(root)
            only[:, column] = root[:, column]
            yield only
        return
    for _ in range(draws):
        signs = torch.randint(0, 2, outputs.shape, generator=generator).to(root) * 2 - 1
        yield signs * root / draws**0.5


def _parts(tangent: Tangent) -> dict[str, tuple[str, ...]]:
    """For each layer with a block, which of its weight and bias move."""
    found: dict[str, tuple[str, ...]] = {}
    for name in tangent.names:
        layer, _, kind = name.rpartition(".")
        if kind in ("weight", "bias") and isinstance(tangent.network.get_submodule(layer), KRONECKER + NORMS):
            found[layer] = (*found.get(layer, ()), kind)
    kronecker = {n for n in found if isinstance(tangent.network.get_submodule(n), KRONECKER)}
    return {name: kinds for name, kinds in found.items() if name not in kronecker or "weight" in kinds}


def _rest(tangent: Tangent, parts: dict[str, tuple[str, ...]]) -> list[str]:
    covered = {_join(layer, kind) for layer, kinds in parts.items() for kind in kinds}
    return [name for name in tangent.names if name not in covered]


def _join(layer: str, kind: str) -> str:
    return f"{layer}.{kind}" if layer else kind
