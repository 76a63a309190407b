"""The float network and its int8 simulation side by side, layer by layer, to mend one by the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from hetero.quantisation.resizing import QuantisedResize
from hetero.quantisation.simulation import QuantisedDeploy, QuantisedLayer, Rounding


@dataclass(frozen=True)
class Visit:
    """What a layer sees: its input in int8 arithmetic, and the output it would have in float.

    layer: may be changed; what follows sees the change. quantised_input: float32 [K, C, H, W] or [K, C];
    float_output: float32 [K, O, H', W'] or [K, O], computed from unquantised inputs by unquantised weights.
    """

    layer: QuantisedLayer
    quantised_input: Tensor
    float_output: Tensor


@torch.no_grad()
def visit_layers(deploy: QuantisedDeploy, pixels: Tensor, visitor: Callable[[Visit], None]) -> None:
    """Call `visitor` for every layer in order, each after those before it; then measure ranges anew.

    pixels: float32 [K, 3, S, S], 0..255; all activations of a layer are held at once.
    """
    normalised = (pixels - deploy.preprocessing.offset) * (1 / deploy.preprocessing.scale)
    quantised = deploy.entering(pixels)
    _Lockstep(deploy, visitor).run(_Pair(normalised, quantised))
    deploy.calibrate()


@dataclass(frozen=True)
class _Pair:
    exact: Any
    quantised: Any


class _Lockstep(fx.Interpreter):
    """Every value of the graph is a pair: in float, and in int8 arithmetic."""

    def __init__(self, deploy: QuantisedDeploy, visitor: Callable[[Visit], None]) -> None:
        super().__init__(deploy.network)
        self.reference, self.visitor = deploy.folded, visitor

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("placeholder", "output"):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        exact = _side("exact", args), _side("exact", kwargs)
        quantised = _side("quantised", args), _side("quantised", kwargs)
        module = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        match module:
            case Rounding():
                return _Pair(exact[0][0], module(quantised[0][0]))
            case QuantisedResize():
                return _Pair(module.exact(exact[0][0]), module(quantised[0][0]))
            case QuantisedLayer():
                return self._layer(str(n.target), module, exact[0][0], quantised[0][0])
        call = getattr(self, n.op)
        return _Pair(call(n.target, *exact), call(n.target, *quantised))

    def _layer(self, name: str, layer: QuantisedLayer, exact: Tensor, quantised: Tensor) -> _Pair:
        output = self.reference.layer(name)(exact)
        self.visitor(Visit(layer, quantised, output))
        return _Pair(output, layer(quantised))


def _side(name: str, arguments: Any) -> Any:
    """The arguments with every pair replaced by one of its sides."""
    return map_aggregate(arguments, lambda value: getattr(value, name) if isinstance(value, _Pair) else value)
