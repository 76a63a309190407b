"""A network linearised in its weights: f(x; w0) + J(x) (w - w0) (LQF: Achille et al., CVPR 2021)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hetero.linear.culprits import explained, refuse_batch_statistics
from hetero.linear.forward_mode import pushed
from hetero.models.store import weights_digest
from hetero_devices.errors import ModelError

Update = Mapping[str, Tensor]
"""Weights minus those at the start, by the network's own names."""


class Tangent(nn.Module):
    """f(x; w0) + J(x) (w - w0) of a frozen network, which stays in evaluation mode.

    LQF (Achille et al., CVPR 2021, arXiv 2012.11140), the first-order Taylor expansion in the weights; J is
    that of the network in evaluation mode, so that batch normalisation divides by its running statistics.
    One pass in forward mode gives both terms; training goes backwards through that pass.

    network: the frozen one, a copy, at w0. update: w - w0, zero at the start, the only trainable parameters;
    keys are the network's own names with '/' for '.', see `delta` and `move`.
    """

    def __init__(
        self, network: nn.Module, moving: Collection[str] | None = None, example: Tensor | None = None
    ) -> None:
        """Copy and freeze `network`.

        moving: names of the parameters, or of the modules whose parameters, may change; None means all.
        example: an input, by which to find out now, not at the first call, whether the network can be
        linearised. Raises ModelError naming a layer or an operation that cannot be, or an unknown name.
        """
        super().__init__()
        self.network = _frozen(network)
        refuse_batch_statistics(self.network)
        start = dict(self.network.named_parameters())
        self.update = nn.ParameterDict(
            [
                (_key(name), torch.zeros_like(start[name])) for name in _chosen(start, moving)
            ]  # a dict is sorted
        )
        if example is not None:
            self._try(example)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that move, by the network's own names, in its order."""
        return tuple(_name(key) for key in self.update)

    @property
    def digest(self) -> str:
        """What identifies w0: updates may be composed where it is the same."""
        return weights_digest(self.network).hex()

    def start(self) -> dict[str, Tensor]:
        """The parameters that move, at w0."""
        return {name: self.network.get_parameter(name) for name in self.names}

    def delta(self) -> dict[str, Tensor]:
        """w - w0 by the network's own names: the trainable parameters themselves."""
        return {_name(key): parameter for key, parameter in self.update.items()}

    @torch.no_grad()
    def move(self, delta: Update) -> None:
        """Set w - w0; ModelError unless it has exactly the names and shapes of those that move."""
        own = self.delta()
        if own.keys() != delta.keys() or any(own[name].shape != delta[name].shape for name in own):
            raise ModelError("the update is of another network, or of other layers of it: compute it again")
        for name, parameter in own.items():
            parameter.copy_(delta[name])

    def forward(self, inputs: Tensor) -> Tensor:
        """float [N, ...] -> float [N, K], as the network's own; ModelError for an unsupported operation."""
        outputs, change = self.both(inputs)
        return outputs + change

    def both(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """f(x; w0) and J(x) (w - w0), float [N, K] each, from one pass in forward mode."""
        return self.along(inputs, self.delta())

    def along(self, inputs: Tensor, direction: Update) -> tuple[Tensor, Tensor]:
        """As `both` in another direction than the update. direction: a tensor for each name that moves."""
        try:
            return self._jvp(inputs, direction)
        except Exception as error:  # torch and the network's own code raise whatever they like
            raise explained(self.network, inputs, lambda: self._jvp(inputs, direction), error) from error

    def train(self, mode: bool = True) -> Tangent:
        """The frozen network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def _try(self, example: Tensor) -> None:
        try:
            self(example).sum().backward()
        except NotImplementedError as error:  # on the way back
            raise explained(self.network, example, lambda: None, error) from error
        self.zero_grad(set_to_none=True)

    def _jvp(self, inputs: Tensor, direction: Update) -> tuple[Tensor, Tensor]:
        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            found: Tensor = functional_call(self.network, parameters, (inputs,))
            return found

        start = self.start()
        return pushed(outputs, start, {name: direction[name] for name in start})


def _frozen(network: nn.Module) -> nn.Module:
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    for module in frozen.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 - what it overwrites is needed on the way back
    return frozen


def _chosen(start: Mapping[str, Tensor], moving: Collection[str] | None) -> list[str]:
    """Names of parameters in the network's order; ModelError for a choice that names none."""
    if not start:
        raise ModelError("the network has no parameters: there is nothing to linearise it in")
    if moving is None:
        return list(start)
    for choice in moving:
        if not any(_belongs(name, choice) for name in start):
            raise ModelError(f"the network has no parameter or layer {choice!r}: see named_parameters()")
    chosen = [name for name in start if any(_belongs(name, choice) for choice in moving)]
    if not chosen:
        raise ModelError("no parameter moves: name at least one layer")
    return chosen


def _belongs(name: str, choice: str) -> bool:
    return name == choice or name.startswith(f"{choice}.")


def _key(name: str) -> str:
    return name.replace(".", "/")  # torch allows no dots in the name of a parameter


def _name(key: str) -> str:
    return key.replace("/", ".")
