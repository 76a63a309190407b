"""ExecuTorch (.pte), int8: the network in integers by XNNPACK; pixels and unit norm in float32.

The route of ExecuTorch is PT2E: its quantiser says where the torch program needs observers, they learn the
ranges, and the conversion writes quantise and dequantise nodes that lowering fuses into integer operators.
Weights are symmetric 8-bit integers per output channel, activations asymmetric ones per tensor. The ranges
are those of `Calibration`, by the same code as for the other formats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from hetero_devices.errors import DataError, RecipeError, require
from hetero_export.calibration import Calibration, Images
from hetero_export.clipping import Range
from hetero_export.converting import converting
from hetero_export.pte import load_program, write_lowered

_NETWORK = "network"  # of `Deploy`: what is quantised
_WEIGHTED = ("conv", "linear", "matmul", "bmm", "addmm", "mm")


def quantise_pte(source: Path, target: Path, calibration: Calibration) -> dict[str, Any]:
    """Quantise the torch program `source` (see `export_program`) and lower it into `target`.

    Returns what a manifest should say of it. Raises DataError for unusable calibration images, RecipeError
    for layers to keep in float, which this format does not offer, ModelError when it does not quantise.
    """
    if calibration.keep_float:
        raise RecipeError("pte int8 keeps no layer in float: leave keep_float out, or use another format")
    with converting("int8 ExecuTorch"):
        loaded = load_program(source)
        _check_size(calibration.images, loaded.image)
        watched = observed(loaded.module)
        set_ranges(watched, calibration)
        converted = require("torchao.quantization.pt2e.quantize_pt2e", "executorch").convert_pt2e(watched)
        found = write_lowered(converted, loaded, target)
    return {"calibration": calibration.describe(), **found}


def _check_size(images: Images, example: torch.Tensor) -> None:
    if images.shape[1:] != tuple(example.shape[1:]):
        raise DataError(
            f"calibration images are uint8 {list(images.shape)}, "
            f"this model takes uint8 [N, {example.shape[1]}, {example.shape[2]}, 3]"
        )


def observed(module: nn.Module) -> fx.GraphModule:
    """The module with an observer wherever XNNPACK's quantiser wants integers inside the network."""
    xnnpack = require("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", "executorch")
    observers = require("torchao.quantization.pt2e", "executorch")
    prepare = require("torchao.quantization.pt2e.quantize_pt2e", "executorch").prepare_pt2e
    config = xnnpack.get_symmetric_quantization_config(is_per_channel=True)
    activation = replace(
        config.input_activation, observer_or_fake_quant_ctr=observers.MinMaxObserver.with_args(eps=2**-12)
    )
    config = replace(config, input_activation=activation, output_activation=activation)
    found = prepare(module, xnnpack.XNNPACKQuantizer().set_global(config).set_filter_function(_is_inside))
    assert isinstance(found, fx.GraphModule)
    return found


def _is_inside(node: fx.Node) -> bool:
    """Whether a node belongs to the network; parameters, which do not say whose they are, do.

    Not `set_module_name`: it skips convolutions whose batch norm was folded, for their new bias.
    """
    modules = {name for name, _ in node.meta.get("nn_module_stack", {}).values()}
    return node.op == "get_attr" or _NETWORK in {name.removeprefix("L['self'].") for name in modules}


def set_ranges(watched: fx.GraphModule, calibration: Calibration) -> None:
    """Give the observers of activations their ranges, those of pixels 0..255 before the first layer."""
    names = _activation_observers(watched)
    ranges = calibration.ranges(lambda: _activations(watched, names, calibration.images))
    size = calibration.images.shape[1]
    extremes = np.stack([np.full((size, size, 3), value, np.uint8) for value in (0, 255)])
    front = _front(watched) & set(names)
    black_white = list(_activations(watched, names, extremes))
    ranges |= {name: _span([each[name] for each in black_white]) for name in front}
    for name, (low, high) in ranges.items():
        observer = watched.get_submodule(name)
        observer.min_val, observer.max_val = torch.tensor(low), torch.tensor(high)


def _span(values: list[npt.NDArray[Any]]) -> Range:
    return float(min(each.min() for each in values)), float(max(each.max() for each in values))


def _activation_observers(watched: fx.GraphModule) -> list[str]:
    """Names of the observers that do not watch weights; one that watches several tensors is named once."""
    computed = _computed(watched)
    names = [
        str(node.target) for node in watched.graph.nodes if node.op == "call_module" and node in computed
    ]
    return [name for name in dict.fromkeys(names) if hasattr(watched.get_submodule(name), "min_val")]


def _computed(watched: fx.GraphModule) -> set[fx.Node]:
    """Nodes that depend on the image."""
    found: set[fx.Node] = set()
    for node in watched.graph.nodes:
        if node.op == "placeholder" or found & set(node.all_input_nodes):
            found.add(node)
    return found


def _front(watched: fx.GraphModule) -> set[str]:
    """Targets of the modules that run before any layer with weights."""
    behind: set[fx.Node] = set()
    for node in watched.graph.nodes:
        name = getattr(node.target, "_schema", None)
        weighted = name is not None and name.name.partition("::")[2].startswith(_WEIGHTED)
        if weighted or behind & set(node.all_input_nodes):
            behind.add(node)
    modules = [node for node in watched.graph.nodes if node.op == "call_module"]
    return {str(node.target) for node in modules} - {str(node.target) for node in modules if node in behind}


def _activations(
    watched: fx.GraphModule, names: list[str], images: Images
) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """What each named observer sees, for one image after another."""
    seen: dict[str, list[npt.NDArray[Any]]] = defaultdict(list)
    hooks = [
        watched.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: seen[name].append(inputs[0].detach().numpy().ravel())
        )
        for name in names
    ]
    try:
        for image in images:
            seen.clear()
            watched(torch.from_numpy(np.array(image[None])))
            yield {name: np.concatenate(values) for name, values in seen.items()}
    finally:
        for hook in hooks:
            hook.remove()
