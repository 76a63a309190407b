"""Blocks of an approximate curvature and how to divide by them: Kronecker-factored, dense, diagonal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


class Block(Protocol):
    """Curvature of some parameters; `names` are those it divides."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def divide(self, vector: Mapping[str, Tensor], shift: float) -> Tensors:
        """(block + shift I)^-1 times the tensors of `names`."""
        ...

    def tensors(self) -> Tensors:
        """What `of_tensors` makes the block from again."""
        ...


@dataclass(frozen=True)
class Kronecker:
    """A (x) G of a layer with `groups` blocks, by their eigenvalues: exact with any shift.

    a: float [groups, I], inputs: [groups, I, I]; g: [groups, O], outputs: [groups, O, O]; the last of I is
    the bias where `names` has two.
    """

    names: tuple[str, ...]
    a: Tensor
    inputs: Tensor
    g: Tensor
    outputs: Tensor

    @classmethod
    def of(cls, names: tuple[str, ...], inputs: Tensor, outputs: Tensor) -> Kronecker:
        """From symmetric factors float [groups, I, I] and [groups, O, O]."""
        a, qa = torch.linalg.eigh(inputs)
        g, qg = torch.linalg.eigh(outputs)
        return cls(names, a.clamp(min=0), qa.contiguous(), g.clamp(min=0), qg.contiguous())

    def divide(self, vector: Mapping[str, Tensor], shift: float) -> Tensors:
        weight = vector[self.names[0]]
        groups, width = self.g.shape
        matrix = weight.reshape(groups, width, -1)
        if len(self.names) == 2:
            matrix = torch.cat((matrix, vector[self.names[1]].reshape(groups, width, 1)), 2)
        turned = self.outputs.mT @ matrix @ self.inputs
        turned = turned / (self.g[:, :, None] * self.a[:, None, :] + shift)
        found = self.outputs @ turned @ self.inputs.mT
        if len(self.names) == 1:
            return {self.names[0]: found.reshape(weight.shape)}
        return {self.names[0]: found[..., :-1].reshape(weight.shape), self.names[1]: found[..., -1].flatten()}

    def tensors(self) -> Tensors:
        return {"a": self.a, "inputs": self.inputs, "g": self.g, "outputs": self.outputs}


@dataclass(frozen=True)
class Dense:
    """The exact block of some tensors laid side by side, by its eigenvalues: values [P], vectors [P, P]."""

    names: tuple[str, ...]
    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, names: tuple[str, ...], matrix: Tensor) -> Dense:
        """From a symmetric float [P, P]."""
        values, vectors = torch.linalg.eigh(matrix)
        return cls(names, values.clamp(min=0), vectors.contiguous())

    def divide(self, vector: Mapping[str, Tensor], shift: float) -> Tensors:
        parts = [vector[name] for name in self.names]
        turned = self.vectors.mT @ torch.cat([part.flatten() for part in parts])
        found = self.vectors @ (turned / (self.values + shift))
        pieces = torch.split(found, [part.numel() for part in parts])
        return {n: piece.view(part.shape) for n, piece, part in zip(self.names, pieces, parts, strict=True)}

    def tensors(self) -> Tensors:
        return {"values": self.values, "vectors": self.vectors}


@dataclass(frozen=True)
class Diagonal:
    """The diagonal of one tensor's block, float of its shape."""

    names: tuple[str, ...]
    values: Tensor

    def divide(self, vector: Mapping[str, Tensor], shift: float) -> Tensors:
        name = self.names[0]
        return {name: vector[name] / (self.values + shift)}

    def tensors(self) -> Tensors:
        return {"values": self.values}


def of_tensors(names: tuple[str, ...], tensors: Tensors) -> Block:
    """The block whose `tensors` these are."""
    if "a" in tensors:
        return Kronecker(names, **tensors)
    return Dense(names, **tensors) if "vectors" in tensors else Diagonal(names, **tensors)
