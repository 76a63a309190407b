"""The supernet: one set of weights of which every candidate of a space uses a part.

A narrower layer takes the first channels (Yu et al., Slimmable Neural Networks, ICLR 2019), a smaller kernel
the middle of the larger (Cai et al., Once-for-All, ICLR 2020), a shallower stage the first blocks. A
candidate's own modules compute with the shared weights, so no family needs a second, elastic, forward pass.
Batch statistics differ between candidates: in training they are those of the batch, and a candidate's are
computed anew before it is scored (`scoring.py`).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hetero.models.build import build
from hetero.search.paths import Paths
from hetero.search.space import Architecture, SharedSpace


class SuperNet(nn.Module):
    """float32 [N, 3, S, S] -> float32 [K * N, D]: the batch by each of the K candidates that `paths` draws.

    In eval mode K is 1: the largest candidate.
    """

    def __init__(self, space: SharedSpace, paths: Paths) -> None:
        super().__init__()
        self.space, self.paths = space, paths
        self.shared = nn.ParameterDict(_shared(space))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.step: Tensor
        self._template = lru_cache(maxsize=512)(self._build_template)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.path(x, self.space.largest())
        drawn = self.paths.draw(self.space, int(self.step))
        self.step += 1
        return torch.cat([self.path(x, architecture) for architecture in drawn])

    def path(self, x: Tensor, architecture: Architecture) -> Tensor:
        """One candidate's output, float32 [N, D], with the batch statistics of x."""
        output: Tensor = functional_call(self._template(architecture), self.weights(architecture), (x,))
        return output

    def weights(self, architecture: Architecture) -> dict[str, Tensor]:
        """The candidate's parameters by name: views of the shared ones."""
        return {
            name: part(self.shared[_key(self.space.shared_name(architecture, name))], parameter.shape)
            for name, parameter in self._template(architecture).named_parameters()
        }

    def extract(self, architecture: Architecture) -> nn.Module:
        """The candidate as a network of its own with a copy of its weights, batch statistics yet unknown."""
        network = build(self.space.config(architecture), weights=False)
        with torch.no_grad():
            for name, weight in self.weights(architecture).items():
                network.get_parameter(name).copy_(weight)
        return network

    def _build_template(self, architecture: Architecture) -> nn.Module:
        """The candidate's modules without memory of their own; batch norms that keep no statistics."""
        with torch.device("meta"):
            network = build(self.space.config(architecture), weights=False)
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
        return network.train()


def part(weight: Tensor, shape: torch.Size) -> Tensor:
    """The first entries along channel axes, the middle along the axes of a kernel."""
    for axis, (there, wanted) in enumerate(zip(weight.shape, shape, strict=True)):
        weight = weight.narrow(axis, (there - wanted) // 2 if axis >= 2 else 0, wanted)
    return weight


def _shared(space: SharedSpace) -> dict[str, nn.Parameter]:
    """Parameters large enough for every candidate, initialised as those of the candidates in `cover`."""
    found: dict[str, nn.Parameter] = {}
    for architecture in space.cover():
        for name, parameter in build(space.config(architecture), weights=False).named_parameters():
            key = _key(space.shared_name(architecture, name))
            assert key not in found or found[key].shape == parameter.shape
            found.setdefault(key, nn.Parameter(parameter.detach().clone()))
    return found


def _key(name: str) -> str:
    """A parameter's name as PyTorch allows it as a key."""
    return name.replace(".", "/")
