"""A torch network that computes what the int8 artefact computes, and can be trained to do it well."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from hetero.models.deploy import Deploy
from hetero.models.encoder import check_images
from hetero.quantisation.folding import Folded, unfold, with_moved_offsets
from hetero.quantisation.operators import Kind, adds_constant, kind
from hetero.quantisation.scheme import Scheme
from hetero_devices.space import Preprocessing

Images = npt.NDArray[np.uint8]
_BLOCK = 32


class QuantisedLayer(nn.Module):
    """A convolution or linear layer with its weights rounded to their grid, its bias to that of the sums.

    While ranges are measured the bias stays in float, as it does in the file the exporter measures.
    """

    measuring: bool

    def __init__(self, layer: nn.Conv2d | nn.Linear, scheme: Scheme, source: Rounding | float) -> None:
        """source: what rounded the input, or the step of its grid."""
        super().__init__()
        self.layer, self.scheme, self.measuring = layer, scheme, False
        self._source = (source,)  # in a tuple: it is a part of the network, not of this layer

    @property
    def weight(self) -> Tensor:
        """The weights on their grid, shaped like the layer's."""
        return self.scheme.quantised_weight(self.layer.weight)

    @property
    def bias(self) -> Tensor | None:
        """The bias on the grid of 32-bit sums, whose step is the input's times the weight's: float32 [O]."""
        bias, source = self.layer.bias, self._source[0]
        if bias is None or self.measuring:
            return bias
        step = source.step if isinstance(source, Rounding) else source
        return self.scheme.quantised_bias(bias, step * self.scheme.weight_scale(self.layer.weight))

    def forward(self, x: Tensor) -> Tensor:
        parameters = {"weight": self.weight} | ({} if self.bias is None else {"bias": self.bias})
        output: Tensor = functional_call(self.layer, parameters, (x,))
        return output


class Rounding(nn.Module):
    """Rounds an activation to the grid of its range; while measuring, widens the range instead."""

    low: Tensor
    high: Tensor
    measuring: bool

    def __init__(self, scheme: Scheme) -> None:
        super().__init__()
        self.scheme, self.measuring = scheme, False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @property
    def step(self) -> Tensor:
        """Of the grid: scalar float32."""
        return self.scheme.activation_grid(self.low, self.high)[0]

    def forward(self, x: Tensor) -> Tensor:
        if not self.measuring:
            return self.scheme.quantised(x, self.low, self.high)
        self.low.copy_(torch.minimum(self.low, x.detach().min()))
        self.high.copy_(torch.maximum(self.high, x.detach().max()))
        return x


class QuantisedDeploy(Deploy):
    """A `Deploy` with the arithmetic of the int8 artefact; gradients pass straight through the rounding.

    Activation ranges are those the exporter finds: smallest and largest value over the calibration images,
    computed with float activations and weights on their grid. In training they are measured again every
    `refresh` steps. Training loops and encoders take it for any other `Deploy`.
    """

    steps: Tensor

    def __init__(
        self,
        folded: Folded,
        preprocessing: Preprocessing,
        scheme: Scheme,
        calibration: Images,
        refresh: int = 50,
    ) -> None:
        """calibration: uint8 [K, S, S, 3], the images the exporter will calibrate on. Raises DataError."""
        check_images(calibration, preprocessing.size)
        folded = with_moved_offsets(folded) if scheme.folds_offsets else folded
        super().__init__(_quantised(folded.graph, scheme, scheme.pixel_step(preprocessing)), preprocessing)
        self.folded, self.scheme, self.refresh = folded, scheme, refresh
        self.calibration = torch.from_numpy(np.array(calibration)).permute(0, 3, 1, 2)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.calibrate()

    def raw(self, pixels: Tensor) -> Tensor:
        """float32 [N, 3, S, S], 0..255 -> float32 [N, D], not normalised, as the artefact computes it."""
        if self.training:
            if int(self.steps) % self.refresh == 0:
                self.calibrate()
            self.steps += 1
        output: Tensor = self.network(self.scheme.pixels(pixels, self.preprocessing)).float()
        return output

    @torch.no_grad()
    def calibrate(self) -> None:
        """Measure all ranges on the calibration images."""
        for rounding in self._roundings():
            rounding.low.zero_()
            rounding.high.zero_()
        device = next(self.parameters()).device
        with self._measuring():
            for block in torch.split(self.calibration, _BLOCK):
                super().raw(block.to(device).float())

    def layers(self) -> dict[str, QuantisedLayer]:
        """Every layer with weights, by its name in the network."""
        return {n: m for n, m in self.network.named_modules() if isinstance(m, QuantisedLayer)}

    @torch.no_grad()
    def into(self, network: nn.Module) -> nn.Module:
        """A copy of the float network this was made from, with the finished weights on their grid."""
        weights = {name: (part.weight, part.layer.bias) for name, part in self.layers().items()}
        return unfold(network, weights, self.folded)

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        parts: list[Rounding | QuantisedLayer] = [*self._roundings(), *self.layers().values()]
        _set_measuring(parts, True)
        try:
            yield
        finally:
            _set_measuring(parts, False)

    def _roundings(self) -> list[Rounding]:
        return [module for module in self.network.modules() if isinstance(module, Rounding)]


def _set_measuring(parts: Sequence[Rounding | QuantisedLayer], measuring: bool) -> None:
    for part in parts:
        part.measuring = measuring


def _quantised(folded: fx.GraphModule, scheme: Scheme, pixel_step: float) -> fx.GraphModule:
    """A copy with quantised layers, and a rounding after each value the artefact rounds."""
    graph = copy.deepcopy(folded)
    for node in list(graph.graph.nodes):
        if kind(node, graph) is Kind.LAYER:
            rounds = not _fuses(node, graph) and not (scheme.folds_offsets and _offset_follows(node))
        else:
            rounds = kind(node, graph) in (Kind.ROUNDED, Kind.CLIPPING) and not _fuses(node, graph)
        if rounds:
            _round_after(node, graph, scheme)
    for node in list(graph.graph.nodes):
        layer = graph.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d | nn.Linear):
            source = _source(node, graph) or pixel_step
            graph.set_submodule(node.target, QuantisedLayer(layer, scheme, source))
    graph.graph.lint()
    graph.recompile()
    return graph


def _source(node: fx.Node, graph: fx.GraphModule) -> Rounding | None:
    """What rounded the input of a layer; None where that is the pixels."""
    while node.op != "placeholder":
        node = node.all_input_nodes[0]
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Rounding):
            return module
    return None


def _fuses(node: fx.Node, graph: fx.GraphModule) -> bool:
    """Whether the only thing done with the value is to clip it, which converters fuse."""
    return len(node.users) == 1 and kind(next(iter(node.users)), graph) is Kind.CLIPPING


def _offset_follows(node: fx.Node) -> bool:
    return len(node.users) == 1 and adds_constant(next(iter(node.users)))


def _round_after(node: fx.Node, graph: fx.GraphModule, scheme: Scheme) -> None:
    name = f"rounding_{node.name}"
    graph.add_submodule(name, Rounding(scheme))
    with graph.graph.inserting_after(node):
        rounding = graph.graph.call_module(name, (node,))
    node.replace_all_uses_with(rounding)
    rounding.args = (node,)
