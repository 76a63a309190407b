"""K-FAC: the Gauss-Newton matrix of a linearised network, block by layer, as Kronecker products.

Martens & Grosse (ICML 2015); convolutions as KFC (Grosse & Martens, ICML 2016). The matrix of a linear model
does not change in training, so it is measured once (LQF: Achille et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hetero.linear.blocks import Block, of_tensors
from hetero.linear.measuring import Measuring, Places
from hetero.linear.tangent import Tangent
from hetero.progress import track
from hetero.tensors import load_tensors, save_tensors
from hetero_devices.errors import ModelError


class Kfac:
    """About (J'CJ + shift I)^-1, one block a layer.

    Linear layers and convolutions: A (x) G, A of their inputs (patches), G of derivatives at their outputs,
    with weight and bias together. Grouped and
    depthwise convolutions: one such block a group, none between groups. Frozen batch and layer norms: the
    exact block of their weights and biases together. Whatever else moves: the diagonal, from few samples.
    Blocks between layers are left out, so the optimum is reached in more than one step, never another one.
    """

    def __init__(self, blocks: Mapping[str, Block], samples: int, digest: str) -> None:
        """blocks: by layer, sums over `samples`. digest: of the network at w0."""
        self.blocks, self.samples, self.digest = dict(blocks), samples, digest

    @classmethod
    def measure(
        cls,
        tangent: Tangent,
        inputs: Tensor,
        weights: Tensor | None = None,
        *,
        draws: int | None = None,
        places: Places = "expand",
        block: int = 64,
        seed: int = 0,
    ) -> Kfac:
        """The matrix on a training set.

        inputs: float [N, ...]; weights: of the loss, c, float [N, K], or None for ones. draws: None sums over
        all K outputs, K passes back: exact; a number draws as many random signs instead, which has the same
        expectation, for many outputs. places: how a layer that is used at many places is treated: derivatives
        there as uncorrelated ("expand", KFC), or inputs there as alike ("reduce": Eschenhagen et al.,
        NeurIPS 2023), which fits layers before a mean over places. Deterministic in `seed`.
        """
        generator = torch.Generator().manual_seed(seed)
        measuring = Measuring(tangent, places)
        starts = range(0, len(inputs), block)
        for start in track(starts, "curvature"):
            part = slice(start, start + block)
            measuring.add(inputs[part], None if weights is None else weights[part], draws, generator)
        return cls(measuring.blocks(), len(inputs), tangent.digest)

    def solve(self, vector: Mapping[str, Tensor], penalty: float, damping: float = 0.0) -> dict[str, Tensor]:
        """About (J'CJ + (penalty + damping N) I)^-1 v, by name; tensors in no block are divided by the shift.

        damping: trusts the approximation less where the curvature is low; per sample, so that it means the
        same for any N. A symmetric positive definite map, fit to precondition conjugate gradients.
        """
        shift = penalty + damping * self.samples
        if not shift > 0:
            raise ModelError("neither penalty nor damping is positive: the curvature may be singular")
        found = {name: tensor / shift for name, tensor in vector.items()}
        for each in self.blocks.values():
            found |= each.divide(vector, shift)
        return {name: found[name] for name in vector}

    def save(self, path: Path) -> None:
        """Write as safetensors, whole or not at all."""
        tensors = {
            f"{','.join(block.names)}|{part}": tensor
            for block in self.blocks.values()
            for part, tensor in block.tensors().items()
        }
        save_tensors(path, tensors, {"samples": str(self.samples), "network": self.digest})

    @classmethod
    def load(cls, path: Path, tangent: Tangent) -> Kfac:
        """What `save` wrote; ModelError for a damaged file or one measured on another network."""
        tensors, metadata = load_tensors(path)
        if metadata.get("network") != tangent.digest:
            raise ModelError(f"the curvature in {path} is of another network: delete it to measure it again")
        grouped: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            names, _, part = key.partition("|")
            grouped.setdefault(names, {})[part] = tensor
        blocks = {names: of_tensors(tuple(names.split(",")), parts) for names, parts in grouped.items()}
        return cls(blocks, int(metadata["samples"]), tangent.digest)
