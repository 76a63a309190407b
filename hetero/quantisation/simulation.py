"""A torch network that computes what the int8 artefact computes, and can be trained to do it well."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from hetero.models.deploy import Deploy
from hetero.models.encoder import check_images
from hetero.quantisation.folding import Folded, unfold, with_moved_offsets
from hetero.quantisation.lowering import is_sigmoid, lowered
from hetero.quantisation.operators import Kind, adds_constant, kind, resized_to
from hetero.quantisation.resizing import QuantisedResize
from hetero.quantisation.scheme import Scheme
from hetero_devices.space import Preprocessing

Images = npt.NDArray[np.uint8]
_BLOCK = 32
_SIGMOID = (0.0, 255 / 256)  # the range LiteRT prescribes for LOGISTIC


class QuantisedLayer(nn.Module):
    """A convolution or linear layer with its weights rounded to their grid, its bias to that of the sums.

    While ranges are measured the bias stays in float, as it does in the file the exporter measures.
    """

    measuring: bool

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, scheme: Scheme, source: Rounding | float, black: float = 0
    ) -> None:
        """source: what rounded the input, or the step of its grid.

        black: the input that a zero byte stands for, where the layer takes bytes and its bias the rest.
        """
        super().__init__()
        self.layer, self.scheme, self.black, self.measuring = layer, scheme, black, False
        self._source = (source,)  # in a tuple: it is a part of the network, not of this layer

    @property
    def weight(self) -> Tensor:
        """The weights on their grid, shaped like the layer's."""
        return self.scheme.quantised_weight(self.layer.weight)

    @property
    def bias(self) -> Tensor | None:
        """The bias on the grid of 32-bit sums, whose step is the input's times the weight's: float32 [O]."""
        bias, source = self.layer.bias, self._source[0]
        if self.measuring or (bias is None and not self.black):
            return bias
        step = source.step if isinstance(source, Rounding) else source
        moved = self.black * self.layer.weight.flatten(1).sum(1)
        steps = step * self.scheme.weight_scale(self.layer.weight)
        exact = moved if bias is None else bias + moved
        return self.scheme.quantised_bias(exact, steps) - self.black * self.weight.flatten(1).sum(1)

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


class FixedRounding(Rounding):
    """Rounds to a grid that an operator prescribes, whatever the range."""

    def __init__(self, scheme: Scheme, low: float, high: float) -> None:
        super().__init__(scheme)
        self._ends = low, high

    def forward(self, x: Tensor) -> Tensor:
        for end, value in zip((self.low, self.high), self._ends, strict=True):
            end.fill_(value)  # calibration empties ranges before it measures them
        return x if self.measuring else self.scheme.quantised(x, self.low, self.high)


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
        folded = lowered(with_moved_offsets(folded) if scheme.folds_offsets else folded, scheme)
        merged = scheme.integer_front and _takes_bare_pixels(folded.graph)
        black = -preprocessing.offset / preprocessing.scale if merged else 0
        super().__init__(_quantised(folded.graph, scheme, preprocessing, black), preprocessing)
        self.folded, self.scheme, self.refresh = folded, scheme, refresh
        self._unrounded = merged or (not scheme.integer_front and _resizes(folded.graph))
        self.calibration = torch.from_numpy(np.array(calibration)).permute(0, 3, 1, 2)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.calibrate()

    def raw(self, pixels: Tensor) -> Tensor:
        """float32 [N, 3, S, S], 0..255 -> float32 [N, D], not normalised, as the artefact computes it."""
        if self.training:
            if int(self.steps) % self.refresh == 0:
                self.calibrate()
            self.steps += 1
        output: Tensor = self.network(self.entering(pixels)).float()
        return output

    def entering(self, pixels: Tensor) -> Tensor:
        """float32 0..255 of any shape -> normalised, as they reach the first layer of the artefact.

        LiteRT's converter merges the normalisation into a first layer without padding, which then takes the
        bytes as they are; in ONNX images are resized before anything is rounded.
        """
        if self._unrounded:
            return (pixels - self.preprocessing.offset) * (1 / self.preprocessing.scale)
        return self.scheme.pixels(pixels, self.preprocessing)

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
        parts = [
            m for m in self.network.modules() if isinstance(m, Rounding | QuantisedLayer | QuantisedResize)
        ]
        for part in parts:
            part.measuring = True
        try:
            yield
        finally:
            for part in parts:
                part.measuring = False

    def _roundings(self) -> list[Rounding]:
        return [module for module in self.network.modules() if isinstance(module, Rounding)]


def _quantised(
    folded: fx.GraphModule, scheme: Scheme, preprocessing: Preprocessing, black: float
) -> fx.GraphModule:
    """A copy with quantised layers, and a rounding after each value the artefact rounds.

    black: what a zero byte stands for, where the first layer takes bytes; else 0.
    """
    graph = copy.deepcopy(folded)
    nodes = list(graph.graph.nodes)
    last = max(index for index, node in enumerate(nodes) if kind(node, graph) is Kind.LAYER)
    tail = set(nodes[last + 1 :]) if scheme.float_islands else set()
    resizing = [node for node in nodes if kind(node, graph) is Kind.RESIZED]
    for node in [node for node in nodes if _rounds(node, graph, scheme, tail)]:
        _round_after(node, graph, scheme)
    for node in resizing:
        _replace(node, graph, QuantisedResize(resized_to(node), scheme, preprocessing))
    pixel_step = scheme.pixel_step(preprocessing)
    for node in list(graph.graph.nodes):
        layer = graph.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d | nn.Linear):
            source = _source(node, graph)
            made = QuantisedLayer(layer, scheme, source or pixel_step, 0 if source else black)
            graph.set_submodule(node.target, made)
    graph.graph.lint()
    graph.recompile()
    return graph


def _rounds(node: fx.Node, graph: fx.GraphModule, scheme: Scheme, tail: set[fx.Node]) -> bool:
    """Whether the artefact rounds what the node computes. tail: nodes that it computes in float."""
    if node in tail:
        return False
    match kind(node, graph):
        case Kind.LAYER:
            return not _fuses(node, graph, tail) and not (scheme.folds_offsets and _offset_follows(node))
        case Kind.ROUNDED | Kind.CLIPPING:
            return not _fuses(node, graph, tail)
        case Kind.ISLAND if scheme.float_islands:
            return _enters_integers(node, graph, tail)
        case Kind.ISLAND:
            return not _fuses(node, graph, tail)
    return False


def _enters_integers(node: fx.Node, graph: fx.GraphModule, tail: set[fx.Node]) -> bool:
    """Whether an operator that computes in integers takes the value, perhaps moved."""
    kinds = [(user, kind(user, graph)) for user in set(node.users) - tail]
    return any(
        found in (Kind.LAYER, Kind.ROUNDED) or (found is Kind.MOVING and _enters_integers(user, graph, tail))
        for user, found in kinds
    )


def _takes_bare_pixels(graph: fx.GraphModule) -> bool:
    """Whether only a convolution without padding takes the input."""
    users = [user for node in graph.graph.nodes if node.op == "placeholder" for user in node.users]
    layers = [graph.get_submodule(str(user.target)) for user in users if user.op == "call_module"]
    takes = [isinstance(layer, nn.Conv2d) and layer.padding == (0, 0) for layer in layers]
    return len(users) == 1 and takes == [True]


def _resizes(graph: fx.GraphModule) -> bool:
    return any(kind(node, graph) is Kind.RESIZED for node in graph.graph.nodes)


def _replace(node: fx.Node, graph: fx.GraphModule, module: nn.Module) -> None:
    graph.add_submodule(node.name, module)
    with graph.graph.inserting_after(node):
        node.replace_all_uses_with(graph.graph.call_module(node.name, (node.all_input_nodes[0],)))
    graph.graph.erase_node(node)


def _source(node: fx.Node, graph: fx.GraphModule) -> Rounding | None:
    """What rounded the input of a layer; None where that is the pixels."""
    while node.op != "placeholder":
        node = node.all_input_nodes[0]
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, Rounding):
            return module
    return None


def _fuses(node: fx.Node, graph: fx.GraphModule, tail: set[fx.Node]) -> bool:
    """Whether the only thing done with the value is to clip it, which converters fuse."""
    (user, *others) = node.users
    return not others and user not in tail and kind(user, graph) is Kind.CLIPPING


def _offset_follows(node: fx.Node) -> bool:
    return len(node.users) == 1 and adds_constant(next(iter(node.users)))


def _round_after(node: fx.Node, graph: fx.GraphModule, scheme: Scheme) -> None:
    name = f"rounding_{node.name}"
    fixed = is_sigmoid(node, graph) and not scheme.float_islands
    graph.add_submodule(name, FixedRounding(scheme, *_SIGMOID) if fixed else Rounding(scheme))
    with graph.graph.inserting_after(node):
        rounding = graph.graph.call_module(name, (node,))
    node.replace_all_uses_with(rounding)
    rounding.args = (node,)
