"""Forward-mode differentiation by torch, by kernels that have a derivative in that mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

Parameters = dict[str, Tensor]


def pushed(
    function: Callable[[Parameters], Tensor], at: Parameters, along: Parameters
) -> tuple[Tensor, Tensor]:
    """The function's value at `at` and its derivative there along `along`; differentiable in `along`."""
    _load_formulas()
    with plain_kernels():
        both: Any = jvp(function, (at,), (along,))
    value, derivative = both
    return value, derivative


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Attention without its fused kernels, hard sigmoids by ReLU6: torch has no derivatives for those."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Reworded():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Reworded(TorchFunctionMode):
    """Words hard sigmoids by ReLU6, whose derivative can be differentiated again."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3.0) * (1 / 6)
        return func(*args, **(kwargs or {}))


@cache
def _load_formulas() -> None:
    """Torch compiles some formulas at the first use, by a tool that it deprecates itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        jvp(torch.square, (torch.zeros(1),), (torch.zeros(1),))
