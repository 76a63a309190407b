"""LeakyReLU instead of ReLU: the first ingredient of LQF, for networks that were trained with ReLU.

A ReLU passes no derivative where it is closed, so the expansion around the pre-trained weights is blind
there; a slope of 0.2 keeps it open (Achille et al., LQF, CVPR 2021). Best is to pre-train so (recipe
`pretrain`); a trained network is converted and then trained for a short while towards its own former
embeddings, which needs images but no labels and keeps its space.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from hetero.data.augment import AugmentConfig
from hetero.models import store
from hetero.models.build import build
from hetero.models.deploy import Deploy
from hetero.models.elastic import ElasticConfig
from hetero.models.residual import ResidualConfig
from hetero.models.shuffle import ShuffleConfig
from hetero.models.store import Model
from hetero.objectives.regression import RegressionConfig
from hetero.objectives.task import Given
from hetero.objectives.terms import Objective
from hetero.training.batches import Batches
from hetero.training.items import TrainingItems
from hetero.training.loop import CHECKPOINT, Fit
from hetero.training.optimizer import FitConfig
from hetero.training.views import LiveTargets
from hetero_devices.errors import ModelError

SLOPE = 0.2
"""Of the negative side, as in LQF."""

_RECTIFIERS = (nn.ReLU, nn.ReLU6)
_FUNCTIONS: tuple[Callable[..., Any], ...] = (F.relu, F.relu6, F.relu_, torch.relu, torch.relu_)
_METHODS = ("relu", "relu_")


def is_leaky(network: nn.Module) -> bool:
    """Whether it has a LeakyReLU and no ReLU or ReLU6, as modules; ReLUs in its code are not seen."""
    return not rectified(network) and any(isinstance(m, nn.LeakyReLU) for m in network.modules())


def rectified(network: nn.Module) -> bool:
    """Whether it has a ReLU or ReLU6, as a module."""
    return any(isinstance(module, _RECTIFIERS) for module in network.modules())


def leaky(network: nn.Module, slope: float = SLOPE) -> nn.Module:
    """A copy with LeakyReLU in the place of every ReLU and ReLU6, as a module or in the code.

    The weights and their names stay; ReLUs in the code are found by torch.fx, and where that cannot follow
    the code the modules alone are replaced. Raises ModelError when there is no ReLU at all.
    """
    changed = copy.deepcopy(network)
    found = _replace_modules(changed, slope)
    traced = _traced(changed)
    if traced is not None and _replace_calls(traced, slope):
        return traced
    if not found:
        raise ModelError("the network has no ReLU to turn into LeakyReLU: fine-tune it as it is (leaky=keep)")
    return changed


def _replace_modules(network: nn.Module, slope: float) -> int:
    places = [
        (module, name)
        for module in network.modules()
        for name, child in module.named_children()
        if isinstance(child, _RECTIFIERS)
    ]
    for module, name in places:
        setattr(module, name, nn.LeakyReLU(slope))
    return len(places)


def _traced(network: nn.Module) -> fx.GraphModule | None:
    try:
        return fx.symbolic_trace(network)
    except Exception:  # whatever the network's own code raises on a symbolic input
        return None


def _replace_calls(graph: fx.GraphModule, slope: float) -> int:
    """Turn calls of relu in the code into leaky_relu; returns how many there were."""
    nodes = [
        node
        for node in graph.graph.nodes
        if (node.op == "call_function" and node.target in _FUNCTIONS)
        or (node.op == "call_method" and node.target in _METHODS)
    ]
    for node in nodes:
        with graph.graph.inserting_after(node):
            new = graph.graph.call_function(F.leaky_relu, (node.all_input_nodes[0], slope))
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.recompile()
    return len(nodes)


def converted(
    model: Model,
    items: TrainingItems,
    augment: AugmentConfig,
    fit: FitConfig,
    folder: Path,
    seed: int,
) -> Model:
    """The model with LeakyReLU, retrained by regression to its own former embeddings; kept in `folder`.

    items: images like those it was trained on; their labels are not used. Done once; killed at any moment,
    calling it again continues with the same result. The space is that of the model, as a student's is.
    A squeeze-and-excite gate keeps its ReLU. Raises ModelError for a network of another library, which
    cannot be built again from its description.
    """
    if not (folder / store.DESCRIPTION).exists():
        config = _leaky_config(model)
        torch.manual_seed(seed)
        network = build(config, weights=False)
        network.load_state_dict(model.deploy.network.state_dict())
        deploy = Deploy(network, model.deploy.preprocessing)
        dim = model.space.dim
        objective = Objective((RegressionConfig(),), Given(items.classes, dim, anchor=True, head=None))
        batches = Batches(items, augment, fit.batch, seed, LiveTargets(items, model.encoder))
        trained = Fit(deploy, objective, fit, folder, seed).run(batches).to("cpu")
        made = replace(model, deploy=trained, config=config)
        made.save(folder, {"converted": "leaky_relu", "slope": SLOPE, "seed": seed, "steps": fit.steps})
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return store.load(folder)


def _leaky_config(model: Model) -> ElasticConfig | ResidualConfig | ShuffleConfig:
    if not isinstance(model.config, ElasticConfig | ResidualConfig | ShuffleConfig):
        raise ModelError(
            "only networks of this library are converted and retrained here: train what "
            "hetero.linear.rectifiers.leaky returns, or fine-tune the network as it is (leaky=keep)"
        )
    if model.config.activation == "leaky_relu":
        raise ModelError("the network has LeakyReLU already: fine-tune it as it is (leaky=keep)")
    if model.config.activation == "hswish":
        raise ModelError(
            "the network is smooth, it has no ReLU to convert: fine-tune it as it is (leaky=keep)"
        )
    return model.config.model_copy(update={"activation": "leaky_relu"})
