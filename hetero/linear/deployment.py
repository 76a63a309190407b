"""Fine-tuned networks and their expansions as deployable modules of plain operators, for any exporter.

A classifier's class scores are brought to unit length, which leaves their order as it is, so that its bundle
is checked and measured as an embedding of one dimension a class, in a space of its own.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hetero.linear.classifier import Classifier
from hetero.linear.dual_network import DualNetwork
from hetero.linear.tangent import Tangent, Update
from hetero.models.deploy import Deploy
from hetero.models.layers import UnitNorm

_BELOW, _HEAD = "deploy.network.", "head."


class Embedding(nn.Module):
    """float32 [N, 3, S, S] pixels 0..255 -> unit float32 [N, D], of a copy: what is expanded or trained."""

    def __init__(self, deploy: Deploy) -> None:
        super().__init__()
        self.deploy = copy.deepcopy(deploy)

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.deploy.embed(pixels)
        return embedding


class Paired(nn.Module):
    """float32 [N, 3, S, S] -> float32 [N, 2 D]: a network's output, and beside it the change of it."""

    def __init__(self, dual: DualNetwork) -> None:
        super().__init__()
        self.dual = dual

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat(self.dual.both(inputs), 1)


class ExpandedNorm(nn.Module):
    """float32 [N, 2 D], an output y and its change dy -> float32 [N, D] of unit norm.

    u + du with u = y / |y| and du = (dy - u <u, dy>) / |y|, the first-order expansion of the unit norm, which
    leaves the sphere and is scaled back. It stands where the unit norm does, so quantisers leave it in float.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.after = UnitNorm()

    def forward(self, x: Tensor) -> Tensor:
        unit, moved = unit_and_change(x, self.dim)
        embedding: Tensor = self.after(unit + moved)
        return embedding


def unit_and_change(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """float32 [N, 2 D], y and dy -> u and du, float32 [N, D] each: see `ExpandedNorm`."""
    value, change = x[:, :dim], x[:, dim:]
    inverse = torch.rsqrt((value * value).sum(1, keepdim=True) + 1e-12)
    unit, moved = value * inverse, change * inverse
    return unit, moved - unit * (unit * moved).sum(1, keepdim=True)


class ClassScores(nn.Module):
    """float32 [N, D], a network's output -> class scores float32 [N, C] of unit norm, by the head."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.before, self.after = UnitNorm(), UnitNorm()
        self.head, self.scale = copy.deepcopy(classifier.head), classifier.scale

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.after(self.head(self.before(x) * self.scale))
        return scores


class ExpandedScores(nn.Module):
    """float32 [N, 2 D], an output and its change -> the expansion's class scores float32 [N, C], unit norm.

    head(s u) + dW s u + db + W s du: the change of the head is taken up by its weights, the rest is W s du.
    """

    def __init__(self, classifier: Classifier, moved: Update) -> None:
        """moved: the head's update, `weight` and `bias`; either may be missing."""
        super().__init__()
        self.start, self.moved = copy.deepcopy(classifier.head), copy.deepcopy(classifier.head)
        self.scale, self.dim, self.after = classifier.scale, classifier.head.in_features, UnitNorm()
        with torch.no_grad():
            for name, delta in moved.items():
                self.moved.get_parameter(name).add_(delta)

    def forward(self, x: Tensor) -> Tensor:
        unit, change = unit_and_change(x, self.dim)
        by_change = F.linear(change * self.scale, self.start.weight)
        scores: Tensor = self.after(self.moved(unit * self.scale) + by_change)
        return scores


def deployable(trained: nn.Module) -> Deploy:
    """An `Embedding`, or the tangent of one, for the exporters.

    Pixels in, unit embedding out. Raises ModelError for a network with an operator that has no dual form.
    """
    if not isinstance(trained, Tangent):
        assert isinstance(trained, Embedding)
        return trained.deploy.eval()
    start = trained.network
    assert isinstance(start, Embedding)
    paired = _paired(start.deploy, trained.delta())
    return Deploy(paired, start.deploy.preprocessing, ExpandedNorm(_width(paired, start.deploy) // 2)).eval()


def deployable_classifier(trained: nn.Module) -> Deploy:
    """A `Classifier`, or the tangent of one, for the exporters: pixels in, class scores of unit norm out.

    Raises ModelError for a network with an operator that has no dual form.
    """
    if not isinstance(trained, Tangent):
        assert isinstance(trained, Classifier)
        deploy = copy.deepcopy(trained.deploy)
        return Deploy(deploy.network, deploy.preprocessing, ClassScores(trained)).eval()
    start, delta = trained.network, trained.delta()
    assert isinstance(start, Classifier)
    head = {name.removeprefix(_HEAD): each.detach() for name, each in delta.items() if name.startswith(_HEAD)}
    tail = ExpandedScores(start, head)
    return Deploy(_paired(start.deploy, delta), start.deploy.preprocessing, tail).eval()


def _paired(deploy: Deploy, delta: Update) -> Paired:
    """The network of a deployable module and its change along that part of an update which is its own."""
    assert isinstance(deploy.unit_norm, UnitNorm), "a link's layers are not expanded"
    update = {name.removeprefix(_BELOW): each for name, each in delta.items() if name.startswith(_BELOW)}
    tangent = Tangent(deploy.network, tuple(update))
    tangent.move(update)
    return Paired(DualNetwork(tangent))


@torch.no_grad()
def _width(network: nn.Module, deploy: Deploy) -> int:
    """Of what a network returns for images of the deployable module."""
    side = deploy.preprocessing.size
    return int(network(torch.zeros(1, 3, side, side)).shape[1])
