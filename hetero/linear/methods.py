"""The methods that are compared: each is four choices, so that the ablations of LQF differ in one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from torch import nn

from hetero_devices.errors import RecipeError

Form = Literal["head", "network", "expansion"]
Objective = Literal["cross-entropy", "mse"]
Step = Literal["exact", "sgd", "kfac"]


@dataclass(frozen=True)
class Method:
    """What is trained, by which loss and which steps.

    form: the head alone, the network itself, or its first-order expansion; leaky: LeakyReLU instead of ReLU;
    last: only the last block and the head move. rates: the grid that is searched on validation images; of
    the exact head it is the ridge's decay; of an expansion with a squared loss or K-FAC in units of the
    largest stable one, see `objective`.
    """

    name: str
    form: Form
    loss: Objective
    step: Step
    rates: tuple[float, ...]
    leaky: bool = False
    last: bool = False
    about: str = ""


_DECAYS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_NETWORK = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
_SQUARED = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4)
_STABLE = (0.003, 0.01, 0.03, 0.1, 0.3)  # of an expansion: in units of its largest stable rate
_STABLE_SOFTMAX = (3.0, 10.0, 30.0, 100.0, 300.0)  # in the same units; its curvature is p (1 - p) of theirs

_ALL = (
    Method("head", "head", "mse", "exact", _DECAYS, about="linear head on the frozen embedding, ridge"),
    Method(
        "gradients",
        "expansion",
        "cross-entropy",
        "sgd",
        _NETWORK,
        last=True,
        about="gradients of the last block as features (Mu et al., ICLR 2020)",
    ),
    Method("finetune", "network", "cross-entropy", "sgd", _NETWORK, about="non-linear fine-tuning"),
    Method("finetune-mse", "network", "mse", "sgd", _SQUARED, about="non-linear, squared loss"),
    Method("lqf", "expansion", "mse", "kfac", _STABLE, leaky=True, about="LQF, CVPR 2021"),
    Method("lqf-relu", "expansion", "mse", "kfac", _STABLE, about="LQF with ReLU"),
    Method(
        "lqf-ce",
        "expansion",
        "cross-entropy",
        "kfac",
        _STABLE_SOFTMAX,
        leaky=True,
        about="LQF with cross-entropy",
    ),
    Method("lqf-sgd", "expansion", "mse", "sgd", _STABLE, leaky=True, about="LQF without K-FAC"),
)

METHODS = {method.name: method for method in _ALL}
"""All of them by name, in the order of the table."""


def chosen(names: Sequence[str]) -> tuple[Method, ...]:
    """The named methods in the table's order; `all` is every one. RecipeError names the nearest one."""
    for name in names:
        if name not in METHODS and name != "all":
            near = get_close_matches(name, METHODS, n=1, cutoff=0)
            raise RecipeError(
                f"there is no method {name!r}; the nearest is {near[0]!r} (known: all, {', '.join(METHODS)})"
            )
    return tuple(method for method in _ALL if "all" in names or method.name in names)


def last_block(network: nn.Module, prefix: str = "") -> tuple[str, ...]:
    """Names of the last block and of the single layer after it, if there is one, in the order of the modules.

    What gradients-as-features moves. A block is the last module with parameters below nested containers:
    of this library's networks the last block of `features`, and `embed`.
    """
    children = [
        (f"{prefix}{name}", child)
        for name, child in network.named_children()
        if any(True for _ in child.parameters())
    ]
    if not children:
        return (prefix.rstrip("."),)
    name, last = children[-1]
    if len(children) == 1 or isinstance(last, nn.Sequential | nn.ModuleList):
        return last_block(last, f"{name}.") if _has_children(last) else (name,)
    if _has_children(last):
        return (name,)
    before, block = children[-2]
    return (*(_last_child(block, before)), name)


def _has_children(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _last_child(module: nn.Module, name: str) -> tuple[str, ...]:
    """The last child with parameters of a container, or the module itself."""
    if not isinstance(module, nn.Sequential | nn.ModuleList):
        return (name,)
    held = [key for key, child in module.named_children() if any(True for _ in child.parameters())]
    return (f"{name}.{held[-1]}",)
