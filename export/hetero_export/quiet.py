"""Converters are chatty: silence one call and leave the process as it was."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from hetero_devices.silence import silent


@contextmanager
def quiet() -> Iterator[None]:
    """Discard whatever is printed, logged or warned, by Python or straight to the file descriptors.

    The environment, logging and warning filters are afterwards what they were before, although
    converters change all three when they are first imported.
    """
    with _same_environment(), _logging_off(), silent():
        yield


@contextmanager
def _same_environment() -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(TQDM_DISABLE="1", TF_CPP_MIN_LOG_LEVEL="3")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _logging_off() -> Iterator[None]:
    root = logging.root
    level, handlers, disabled = root.level, list(root.handlers), root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers
