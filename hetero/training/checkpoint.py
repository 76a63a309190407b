"""Checkpoints: everything a step changes, in one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetero.tensors import Tensors, load_tensors, save_tensors
from hetero_devices.errors import ModelError


def save_checkpoint(
    path: Path, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """The state after `step` steps."""
    tensors = {f"{part}.{k}": v for part, module in modules.items() for k, v in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    save_tensors(path, tensors, {"step": str(step)})


def load_checkpoint(path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Restore in place; returns the number of steps done."""
    tensors, metadata = load_tensors(path)
    try:
        for part, module in modules.items():
            module.load_state_dict(_below(tensors, part))
        optimizer.load_state_dict(_optimizer_state(_below(tensors, "optimizer"), optimizer))
        return int(metadata["step"])
    except (RuntimeError, KeyError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(f"checkpoint {path} is of another model ({first}): use another run folder") from None


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def _optimizer_state(tensors: Tensors, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    state: dict[int, Tensors] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
