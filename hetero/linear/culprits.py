"""Which layer of a network cannot be linearised, and why, in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hetero_devices.errors import ModelError
from hetero_devices.runtimes.base import one_line


def refuse_batch_statistics(network: nn.Module) -> None:
    """ModelError for a batch norm without running statistics: an image's output would depend on others."""
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ModelError(
                f"{type(module).__name__} ({name}) cannot be linearised: it keeps no running statistics, so "
                "that an image's output depends on its batch; train it with track_running_stats=True"
            )


def explained(
    network: nn.Module, inputs: Tensor, linearised: Callable[[], object], error: Exception
) -> Exception:
    """What to raise for the error of a pass in forward mode.

    The error itself where the plain network fails on these inputs too; ModelError naming the innermost layer
    and torch's reason where only the derivative is missing. linearised: the failing pass, run once more.
    """
    try:
        network(inputs)
    except Exception:  # a network raises whatever it likes
        return error
    name, kind = _at_work(network, linearised)
    reason = one_line(error).partition(" Please file")[0].partition(" For more details")[0]
    where = f"{kind} ({name})" if name else f"the network ({kind})"
    return ModelError(f"{where} cannot be linearised: {reason[:240]}; replace it by other operations")


def _at_work(network: nn.Module, fails: Callable[[], object]) -> tuple[str, str]:
    """Name and type of the innermost module that is at work when `fails` raises."""
    stack = [("", type(network).__name__)]

    def enters(name: str) -> Callable[..., None]:
        return lambda module, inputs: stack.append((name, type(module).__name__))

    def leaves(module: nn.Module, inputs: Any, output: Any) -> None:
        stack.pop()

    hooks = [module.register_forward_pre_hook(enters(name)) for name, module in network.named_modules()]
    hooks += [module.register_forward_hook(leaves) for module in network.modules()]
    try:
        fails()
    except Exception:
        return stack[-1]
    finally:
        for hook in hooks:
            hook.remove()
    return stack[0]
