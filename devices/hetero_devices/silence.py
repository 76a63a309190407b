"""Native libraries print past Python's streams: silence one call and leave the process as it was."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def descriptors_discarded() -> Iterator[None]:
    """Point file descriptors 1 and 2 at the null device: native code writes past `sys.stderr`."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor, _ in saved:
            os.dup2(null, descriptor)
        yield
    finally:
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(null)


@contextmanager
def silent() -> Iterator[None]:
    """Discard what native code prints, by itself or through Python's streams, and Python's warnings."""
    sink = io.StringIO()  # never closed: a library may keep the stream it met when it was imported
    with (
        descriptors_discarded(),
        redirect_stdout(sink),
        redirect_stderr(sink),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
