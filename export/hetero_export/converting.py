"""What all conversions share: silence, one kind of error, an untouched network."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hetero.models.deploy import Deploy
from hetero_devices.errors import HeteroError, ModelError
from hetero_devices.runtimes.base import one_line
from hetero_export.quiet import quiet


@contextmanager
def converting(target: str) -> Iterator[None]:
    """Silence converters and turn whatever they raise into ModelError; a full disk stays an OSError."""
    try:
        with quiet():
            yield
    except (HeteroError, OSError, MemoryError):
        raise
    except Exception as error:  # converters share no narrower base
        raise ModelError(f"the network does not convert to {target}: {one_line(_root(error))}") from error


def _root(error: BaseException) -> Exception:
    """The first cause: outer converter errors only say that some step failed."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def exportable(deploy: Deploy) -> Deploy:
    """A copy on the CPU, in evaluation mode and without gradients; the caller's module is not touched.

    Contiguous: from channels-last weights, as training leaves them, the LiteRT converter makes a padded
    max-pooling that computes something else.
    """
    copied = copy.deepcopy(deploy).cpu().eval().requires_grad_(False)
    return copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]
