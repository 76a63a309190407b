r"""What linearising costs: time and memory of a tangent against its plain network, in training and deployed.

Networks of the library with random weights and update, random images, one thread, by turns in one process;
processor time, median of rounds. `forward`: output without a derivative; `training`: forward and back to the
gradients of all weights; memory: of tensors kept for the way back.
With --runtimes the dual network (`hetero.linear.dual_network`) and the plain one are exported to both
runtimes, and one image at a time is timed, by turns. Writes results/lqf_cost.{json,md}.

    python benchmarks/lqf_cost.py                    some minutes
    python benchmarks/lqf_cost.py --runtimes         with conversions: some minutes more
    python benchmarks/lqf_cost.py --scale trial --results /tmp/try
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import results
from hetero.linear.dual_network import DualNetwork
from hetero.linear.tangent import Tangent
from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero_devices import runtimes
from hetero_devices.devices.measure import timed
from hetero_devices.space import Preprocessing
from hetero_export.litert import export_litert
from hetero_export.onnx import export_onnx
from hetero_export.parity import parity

Cell = dict[str, Any]
NETWORKS = ("elastic-s", "elastic-l", "residual-s", "shuffle-s")
EXPORTS = {"onnx": export_onnx, "tflite": export_litert}


@dataclass(frozen=True)
class Scale:
    """networks; images: of a training batch; rounds: timed; runs: timed of each exported file."""

    networks: tuple[str, ...]
    images: int
    rounds: int
    runs: int


SCALES = {
    "default": Scale(NETWORKS, images=64, rounds=15, runs=500),
    "full": Scale(NETWORKS, images=64, rounds=50, runs=2000),
    "trial": Scale(("elastic-xs",), images=4, rounds=2, runs=20),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    scale = SCALES[options.scale]
    cells = [_cell(name, scale, options) for name in scale.networks]
    page = table(cells)
    print(page)
    command = f"python benchmarks/lqf_cost.py{' --runtimes' if options.runtimes else ''}"
    fields = {
        "stamp": results.stamp(command, "random images and weights", options.seed),
        "size": options.size,
        "images": scale.images,
        "cells": cells,
    }
    results.write(results.named("lqf_cost", options, whole=True), fields, page, options.results)


def _cell(name: str, scale: Scale, options: argparse.Namespace) -> Cell:
    network, tangent = _pair(name)
    images = torch.randn(scale.images, 3, options.size, options.size)
    cell = {"network": name, **_times(network, tangent, images, scale), **_memory(network, tangent, images)}
    if options.runtimes:
        cell |= _deployed(network, tangent, options.size, scale)
    return cell


def _pair(name: str) -> tuple[nn.Module, Tangent]:
    """The network in evaluation mode and its tangent, some way from the start."""
    config = preset(name).model_copy(update={"activation": "leaky_relu"})
    network = build(config).eval()
    tangent = Tangent(network)
    tangent.move({n: 0.02 * torch.randn_like(w) for n, w in tangent.start().items()})
    return network, tangent


def _times(network: nn.Module, tangent: Tangent, images: Tensor, scale: Scale) -> Cell:
    """Ratios of medians of processor time, all four by turns."""
    plain = copy.deepcopy(network)
    actions: dict[str, Callable[[], object]] = {
        "forward": lambda: _forward(plain, images),
        "forward_tangent": lambda: _forward(tangent, images),
        "training": lambda: _train(plain, images),
        "training_tangent": lambda: _train(tangent, images),
    }
    times: dict[str, list[float]] = {key: [] for key in actions}
    for _ in range(scale.rounds + 1):
        for key, action in actions.items():
            times[key].append(timed(action, time.process_time_ns)[1])
    medians = {key: float(np.median(values[1:])) for key, values in times.items()}
    ratios = {f"{key}_ratio": medians[f"{key}_tangent"] / medians[key] for key in ("forward", "training")}
    return {"ms": medians, **ratios}


@torch.no_grad()
def _forward(network: nn.Module, images: Tensor) -> Tensor:
    outputs: Tensor = network(images)
    return outputs


def _train(network: nn.Module, images: Tensor) -> None:
    network.zero_grad(set_to_none=True)
    network(images).square().mean().backward()


def _memory(network: nn.Module, tangent: Tangent, images: Tensor) -> Cell:
    """Bytes of tensors kept for the way back, each storage once, weights not counted."""
    kept = {}
    for key, each in (("plain", copy.deepcopy(network)), ("tangent", tangent)):
        weights = {p.untyped_storage().data_ptr() for p in each.parameters()}
        sizes: dict[int, int] = {}
        held: list[Tensor] = []  # so that no storage is used twice

        def keep(tensor: Tensor, sizes: dict[int, int] = sizes, held: list[Tensor] = held) -> Tensor:
            held.append(tensor)
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            each(images)
        kept[key] = sum(size for place, size in sizes.items() if place not in weights)
    return {"kept_bytes": kept, "memory_ratio": kept["tangent"] / kept["plain"]}


def _deployed(network: nn.Module, tangent: Tangent, size: int, scale: Scale) -> Cell:
    """Latency and size of the dual file as ratios to the plain one, and how close it is to torch."""
    preprocessing = Preprocessing(size=size)
    forms = {"plain": Deploy(network, preprocessing), "dual": Deploy(DualNetwork(tangent), preprocessing)}
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    cell: Cell = {}
    with TemporaryDirectory() as folder:
        for suffix, export in EXPORTS.items():
            paths = {form: Path(folder) / f"{form}.{suffix}" for form in forms}
            for form, deploy in forms.items():
                export(deploy.eval(), paths[form], {})
            sessions = {form: runtimes.load(path) for form, path in paths.items()}
            times: dict[str, list[float]] = {form: [] for form in forms}
            for run in range(scale.runs):
                for form, session in sessions.items():
                    action = partial(session.run, images[run % 8][None])
                    times[form].append(timed(action, time.process_time_ns)[1])
            medians = {form: float(np.median(values[scale.runs // 10 :])) for form, values in times.items()}
            with torch.no_grad():
                expected = forms["dual"](torch.from_numpy(images)).numpy()
            close = parity(expected, sessions["dual"].run(images))
            cell[suffix] = {
                "ms": medians,
                "ratio": medians["dual"] / medians["plain"],
                "size_ratio": paths["dual"].stat().st_size / paths["plain"].stat().st_size,
                "cosine_min": close.cosine_min,
                "max_abs_error": close.max_abs_error,
            }
    return cell


def table(cells: list[Cell]) -> str:
    """Markdown: one row a network."""
    lines = [
        "# What linearising costs",
        "",
        "Ratios of the tangent to its plain network (LeakyReLU, evaluation mode), one thread: processor time "
        "of a forward pass and of a training step, memory kept for the way back; deployed: latency and file "
        "size of the dual network against the plain one, and its largest difference to torch.",
        "",
        "| network | forward | training step | memory | ONNX: latency / size / error | LiteRT: the same |",
        f"|{'---|' * 6}",
    ]
    for cell in cells:
        deployed = " | ".join(_deployed_text(cell.get(suffix)) for suffix in EXPORTS)
        lines.append(
            f"| {cell['network']} | {cell['forward_ratio']:.2f} | {cell['training_ratio']:.2f} "
            f"| {cell['memory_ratio']:.2f} | {deployed} |"
        )
    return "\n".join([*lines, ""])


def _deployed_text(found: Cell | None) -> str:
    if found is None:
        return "-"
    return f"{found['ratio']:.2f} / {found['size_ratio']:.2f} / {found['max_abs_error']:.1e}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", choices=SCALES, default="default")
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--runtimes", action="store_true", help="also export and time both runtimes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
