"""What XNNPACK took over of a TFLite graph, and what it left to the builtin kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hetero_devices.errors import ModelError, require
from hetero_devices.runtimes.base import one_line
from hetero_devices.runtimes.placement import Operator, Placement, summarise

XNNPACK, BUILTIN = "XNNPACK", "builtin"

_DELEGATE = "DELEGATE"
_WEIGHTED = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL", "CONV_3D"}
)
_INTEGERS = (np.int8, np.uint8, np.int16)


def litert_placement(path: Path) -> Placement | None:
    """Load a TFLite file and look at its execution plan; None where this build does not tell.

    Raises MissingExtra, or ModelError when the file does not load.
    """
    litert = require("ai_edge_litert.interpreter", "device-litert")
    try:
        interpreter = litert.Interpreter(model_path=str(path))
        interpreter.allocate_tensors()
    except Exception as error:  # ValueError and RuntimeError, by the build also others
        raise ModelError(f"cannot load {path.name} with LiteRT: {one_line(error)}") from None
    details = getattr(interpreter, "_get_ops_details", None)  # the only way, and a private one
    return None if details is None else of_operators(details())


def of_operators(details: list[dict[str, Any]]) -> Placement:
    """Placement from the interpreter's list: the graph's own operators, then one DELEGATE a partition.

    A delegate replaces operators without naming them: they are those on the way back from its outputs to
    its inputs.
    """
    own = [operator for operator in details if operator["op_name"] != _DELEGATE]
    partitions = [operator for operator in details if operator["op_name"] == _DELEGATE]
    replaced = set().union(*(_replaced(own, partition) for partition in partitions))
    operators = (_operator(operator, operator["index"] in replaced) for operator in own)
    return summarise(operators, len(partitions), XNNPACK)


def _replaced(own: list[dict[str, Any]], partition: dict[str, Any]) -> set[int]:
    """Indices of the operators between a partition's inputs and outputs."""
    producer = {int(tensor): operator for operator in own for tensor in operator["outputs"]}
    inputs = set(map(int, partition["inputs"]))
    found: set[int] = set()
    pending = list(map(int, partition["outputs"]))
    while pending:
        operator = producer.get(pending.pop())
        if operator is None or operator["index"] in found:
            continue
        found.add(operator["index"])
        pending += [tensor for tensor in map(int, operator["inputs"]) if tensor not in inputs]
    return found


def _operator(operator: dict[str, Any], delegated: bool) -> Operator:
    name, weighted = operator["op_name"], operator["op_name"] in _WEIGHTED
    # Weights in integers under float activations is the hybrid kernel: it multiplies integers.
    types = operator["result_types"] + (operator["operand_types"][1:2] if weighted else [])
    integer = any(type_ in _INTEGERS for type_ in types)
    return Operator(name, XNNPACK if delegated else BUILTIN, weighted, integer)
