"""Whatever a module returns -> float32 [N, D]: maps are pooled, tuples and dataclasses are opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hetero_devices.errors import ModelError

Pool = Literal["mean", "first"]

_USUAL = ("image_embeds", "pooler_output", "embedding", "embeddings", "last_hidden_state", "logits")
"""The embedding among named outputs, as Hugging Face's image models name theirs; the first that is there."""


class Embedding(nn.Module):
    """A module whose output is one vector an image: float32 [N, 3, S, S] -> float32 [N, D].

    embedding: name or position of the output to take; None: the first of `_USUAL`, of a tuple the first.
    pool: how tokens [N, T, D] become a vector; maps [N, D, h, w] are always averaged.
    """

    def __init__(self, module: nn.Module, embedding: str | int | None = None, pool: Pool = "mean") -> None:
        super().__init__()
        self.module = module
        self.embedding, self.pool = embedding, pool

    def forward(self, x: Tensor) -> Tensor:
        return pooled(chosen(self.module(x), self.embedding), self.pool)


def chosen(output: Any, embedding: str | int | None) -> Tensor:
    """The tensor in a module's output; ModelError names what there is when that is not clear."""
    if isinstance(output, Tensor) and embedding is None:
        return output
    named = _named(output)
    for key in _wanted(output, named, embedding):
        if key in named:
            return named[key]
    there = ", ".join(map(str, named)) or f"a {type(output).__name__}"
    raise ModelError(
        f"the module returns {there}: say which is the embedding with embedding=NAME_OR_POSITION"
    )


def _wanted(
    output: Any, named: dict[str | int, Tensor], embedding: str | int | None
) -> tuple[str | int, ...]:
    """Keys to try, in order."""
    if embedding is not None:
        return (embedding,)
    if len(named) == 1 or 0 in named:
        return tuple(named)
    return _USUAL


def pooled(output: Tensor, pool: Pool) -> Tensor:
    """[N, D], tokens [N, T, D] or maps [N, D, h, w] -> float32 [N, D]; ModelError for anything else."""
    match output.ndim:
        case 2:
            vectors = output
        case 3:
            vectors = output[:, 0] if pool == "first" else output.mean(1)
        case 4:
            vectors = output.mean((2, 3))
        case _:
            raise ModelError(
                f"the module returns {list(output.shape)}, expected [N, D], tokens [N, T, D] "
                "or maps [N, D, h, w]"
            )
    return vectors.float()


def _named(output: Any) -> dict[str | int, Tensor]:
    """The tensors of a mapping, dataclass, named tuple or sequence by name or position."""
    items: Any
    if isinstance(output, Mapping):
        items = output.items()
    elif is_dataclass(output):
        items = ((field.name, getattr(output, field.name)) for field in fields(output))
    elif hasattr(output, "_asdict"):
        items = output._asdict().items()
    elif isinstance(output, tuple | list):
        items = enumerate(output)
    else:
        items = ()
    return {key: value for key, value in items if isinstance(value, Tensor)}


def needs_wrapping(module: nn.Module, size: int, embedding: str | int | None) -> bool:
    """Whether a module returns anything but float32 [N, D]; ModelError where it does not run."""
    output = probe(module, size)
    return embedding is not None or not (
        isinstance(output, Tensor) and output.ndim == 2 and output.dtype == torch.float32
    )


def probe(module: nn.Module, size: int) -> Any:
    """What a module, in evaluation mode, returns for float32 [2, 3, size, size]; ModelError when it fails."""
    parameter = next(module.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            return module.eval()(torch.zeros(2, 3, size, size, device=parameter.device))
    except Exception as error:  # somebody else's code raises whatever it likes
        message = " ".join(str(error).split())[:200]
        raise ModelError(f"the module does not run on float32 [2, 3, {size}, {size}]: {message}") from error
