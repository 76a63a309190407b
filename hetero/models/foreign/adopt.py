"""Any torch module as a model of this library: its output a vector, its pixel scaling in the graph."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hetero.models.deploy import Deploy
from hetero.models.foreign.config import ForeignConfig
from hetero.models.foreign.output import Embedding, Pool, needs_wrapping, probe
from hetero.models.foreign.scaling import scaling
from hetero.models.store import Model, weights_digest
from hetero_devices.errors import ModelError
from hetero_devices.space import Preprocessing, Space, space_id

_HALF = (0.5, 0.5, 0.5)


def adopt(
    module: nn.Module,
    example: Tensor,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    embedding: str | int | None = None,
    pool: Pool = "mean",
    config: ForeignConfig | None = None,
) -> Model:
    """A module that maps preprocessed float32 [N, 3, S, S] to an embedding, as a model in a space of its own.

    example: such an input; only its shape counts. mean, std: of RGB in 0..1, by which the module wants its
    pixels scaled; by default 0.5 each, i.e. -1..1. embedding: which output, where there are several, by name
    or position. pool: for tokens [N, T, D]; maps [N, D, h, w] are averaged. config: what a bundle records.
    The module is put into evaluation mode and otherwise left as it is.
    Raises ModelError when it does not run on the example or returns no such embedding.
    """
    size = _side(example)
    preprocessing, affine = scaling(size, mean or _HALF, std or _HALF)
    network = module
    if needs_wrapping(module, size, embedding):
        network = Embedding(module, embedding, pool)
    if affine is not None:
        network = nn.Sequential(affine, network)
    space = _space(network, preprocessing, (embedding, pool))
    config = config or ForeignConfig(source=type(module).__qualname__, size=size)
    return Model(Deploy(network, preprocessing).eval(), config, space)


def _side(example: Tensor) -> int:
    if example.dtype != torch.float32 or example.ndim != 4 or example.shape[1] != 3:
        raise ModelError(
            f"the example input is {example.dtype} {list(example.shape)}, expected float32 [N, 3, S, S]"
        )
    if example.shape[2] != example.shape[3]:
        raise ModelError(f"the example input is {list(example.shape)}: images must be square, [N, 3, S, S]")
    return int(example.shape[2])


def _space(network: nn.Module, preprocessing: Preprocessing, taken: tuple[str | int | None, Pool]) -> Space:
    """Weights, preprocessing and, where there is a choice, what was taken of the output define the space."""
    output = probe(network, preprocessing.size)
    if not isinstance(output, Tensor) or output.ndim != 2 or not torch.isfinite(output).all():
        raise ModelError("the module returns NaN or infinity for a grey image: its weights are broken")
    content, dim = weights_digest(network), int(output.shape[1])
    if taken != (None, "mean"):
        content = hashlib.sha256(content + repr(taken).encode()).digest()
    return Space(space_id(content, preprocessing, dim), dim)
