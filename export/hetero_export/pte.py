"""ExecuTorch (.pte), float32: uint8 pixels in, unit-norm embedding out, one image at a time, by XNNPACK.

A .pte file is lowered ahead of time, so that int8 cannot be made from the float32 file: every precision is
made from the exported torch program, which is what `export_program` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from hetero.models.deploy import Deploy
from hetero_devices.errors import require
from hetero_devices.files import atomic_file
from hetero_devices.runtimes.executorch import METADATA, PLACEMENT, constant, open_program
from hetero_export.converting import converting, exportable
from hetero_export.pte_placement import edge_placement

_aten = torch.ops.aten
_EXTRA = "metadata.json"  # of the torch program, beside the graph


def export_program(deploy: Deploy, path: Path, metadata: Mapping[str, str]) -> None:
    """Write `deploy` as a torch program, uint8 [1, S, S, 3] -> float32 [1, D], that precisions are made from.

    The batch is one, as on a phone: memory is planned when lowering, for the largest batch the program takes.
    metadata: becomes that of every file made from it. Raises ModelError when the network does not export.
    """
    with converting("ExecuTorch"):
        require("executorch.exir", "executorch")
        program = torch.export.export(exportable(deploy), (_black(deploy.preprocessing.size),))
        torch.export.save(program, path, extra_files={_EXTRA: json.dumps(dict(metadata), sort_keys=True)})


def lower_float(source: Path, target: Path) -> dict[str, Any]:
    """Lower the torch program `source` to XNNPACK in float32; returns what a manifest should say of it.

    Raises ModelError when it does not lower.
    """
    with converting("ExecuTorch"):
        loaded = load_program(source)
        return write_lowered(loaded.module, loaded, target)


@dataclass(frozen=True)
class Loaded:
    """A torch program to make precisions from. module: its graph; image: an example; metadata: JSON."""

    module: fx.GraphModule
    image: torch.Tensor
    metadata: str


def load_program(source: Path) -> Loaded:
    """What `export_program` wrote, with pooling written as XNNPACK wants it."""
    extra = {_EXTRA: ""}
    program = torch.export.load(source, extra_files=extra)
    (image,), _ = program.example_inputs
    return Loaded(with_delegable_pooling(program.module()), image, extra[_EXTRA])


def write_lowered(module: nn.Module, loaded: Loaded, target: Path) -> dict[str, Any]:
    """Lower `module`, made from `loaded`, into the file `target`; what a manifest should say of it."""
    content, found = _lowered(torch.export.export(module, (loaded.image,)), loaded.metadata)
    with atomic_file(target) as temporary:
        temporary.write_bytes(content)
    return found


def _lowered(program: torch.export.ExportedProgram, metadata: str) -> tuple[bytes, dict[str, Any]]:
    """A program as .pte, everything XNNPACK takes delegated to it, and what a manifest should say of that.

    The file tells its metadata and the placement of its operators by constant methods.
    """
    exir = require("executorch.exir", "executorch")
    partitioner = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch")
    constants = {METADATA: metadata, PLACEMENT: ""}
    edge = exir.to_edge_transform_and_lower(
        program, partitioner=[partitioner.XnnpackPartitioner()], constant_methods=constants
    )
    where = edge_placement(edge.exported_program().graph_module)
    # The placement is known only now; the manager reads the constants when it emits.
    edge._config_methods = constants | {PLACEMENT: json.dumps(asdict(where), sort_keys=True)}
    content = bytes(edge.to_executorch().buffer)
    return content, {"partitions": where.partitions, "not_delegated": where.fallback}


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a .pte file that was written here; empty for others."""
    found: dict[str, str] = json.loads(constant(open_program(path), METADATA) or "{}")
    return found


def with_delegable_pooling(module: nn.Module) -> fx.GraphModule:
    """Write a mean over height and width as one that keeps them, and a flattening: XNNPACK has only that.

    Changes and returns the module of an exported program.
    """
    assert isinstance(module, fx.GraphModule)
    for node in module.graph.nodes:
        if _is_pooling(node):
            with module.graph.inserting_after(node):
                flat = module.graph.call_function(_aten.flatten.using_ints, (node, 1))
            node.replace_all_uses_with(flat, delete_user_cb=lambda user, flat=flat: user is not flat)
            node.args = (node.args[0], [2, 3], True)
            node.kwargs = {}
            flat.meta = dict(node.meta)
    module.graph.lint()
    module.recompile()
    return module


def _is_pooling(node: fx.Node) -> bool:
    """Whether a node is x.mean((2, 3)) of x [N, C, H, W] without keeping the two and in x's own type."""
    if node.target is not _aten.mean.dim or node.kwargs or (len(node.args) > 2 and node.args[2]):
        return False
    source, axes = node.args[0], node.args[1]
    assert isinstance(source, fx.Node)
    assert isinstance(axes, (list, tuple))
    rank = source.meta["val"].dim()
    return rank == 4 and sorted(int(axis) % rank for axis in axes) == [2, 3]  # type: ignore[arg-type]


def _black(size: int) -> torch.Tensor:
    return torch.zeros(1, size, size, 3, dtype=torch.uint8)
