"""ExecuTorch with its XNNPACK delegate: the one runtime here that is not free of torch.

On a phone ExecuTorch is a small C++ library. Its Python package loads torch's shared libraries, so a process
that runs a .pte file imports torch (about 1 GB installed), which `hetero-device` otherwise refuses.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any, Final
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from hetero_devices import strict
from hetero_devices.errors import ModelError, require
from hetero_devices.runtimes.base import (
    broken_contract,
    check_embeddings,
    check_images,
    one_line,
    unloadable,
)
from hetero_devices.runtimes.placement import Placement
from hetero_devices.silence import silent

METADATA, PLACEMENT = "hetero_metadata", "hetero_placement"
"""Methods of a .pte file without inputs: each returns a constant, JSON."""

_METHOD = "forward"
_BYTE, _FLOAT = 0, 6  # torch's scalar types, as the file stores them


class ExecutorchSession:
    """A .pte file: method `forward`, uint8 [1, H, W, 3] -> float32 [1, D]; images are run one by one."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        """Raise MissingExtra, or ModelError when the file is damaged or breaks the contract.

        A process has one thread pool: ModelError while another session of it has a different number.
        """
        self._program = open_program(path)
        _set_threads(threads)
        with silent():
            self._torch = require("torch", "executorch")
            try:
                self._method = self._program.load_method(_METHOD)
            except Exception as error:  # RuntimeError, by the build also others
                raise unloadable(path.name, "ExecuTorch", error) from None
        self._name = path.name
        self._height, self._width, self._dim = self._check_contract()
        where = _placement_of(self._program, path)
        self._details = {
            "runtime": "executorch",
            "version": metadata.version("executorch"),
            "input_dtype": "uint8",
            "batch": 1,
            "threads": threads,
            "xnnpack_partitions": where.partitions if where else None,
        }
        _open_sessions.add(self)

    @property
    def details(self) -> dict[str, Any]:
        return dict(self._details)

    def run(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        check_images(images, self._height, self._width)
        embeddings = np.empty((len(images), self._dim), np.float32)
        for row, image in enumerate(images):
            embeddings[row] = self._one(image)
        return check_embeddings(embeddings, len(images), self._name)

    def _one(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        pixels = self._torch.from_numpy(np.array(image[None]))  # copied: torch wants memory it may write to
        try:
            (embedding,) = self._method.execute((pixels,))
        except Exception as error:
            raise ModelError(f"ExecuTorch failed on {self._name}: {one_line(error)}") from None
        found: npt.NDArray[np.float32] = embedding.numpy()[0]
        return found

    def _check_contract(self) -> tuple[int, int, int]:
        meta = self._method.metadata
        if (meta.num_inputs(), meta.num_outputs()) != (1, 1):
            found = f"{meta.num_inputs()} inputs and {meta.num_outputs()} outputs"
            raise broken_contract(self._name, found, "one of each")
        source, target = meta.input_tensor_meta(0), meta.output_tensor_meta(0)
        if source.dtype() != _BYTE or len(source.sizes()) != 4 or source.sizes()[::3] != (1, 3):
            raise broken_contract(self._name, f"input {source}", "[1, H, W, 3] uint8")
        if target.dtype() != _FLOAT or len(target.sizes()) != 2 or target.sizes()[0] != 1:
            raise broken_contract(self._name, f"output {target}", "[1, D] float32")
        _, height, width, _ = source.sizes()
        return height, width, target.sizes()[1]


def executorch_placement(path: Path) -> Placement | None:
    """Where the operators of a .pte file run; None for a file that another exporter wrote.

    ExecuTorch places operators when it exports, not when it loads: the exporter's count is part of the file.
    Raises MissingExtra, or ModelError when the file does not load.
    """
    return _placement_of(open_program(path), path)


def open_program(path: Path) -> Any:
    """The file as an `executorch.runtime.Program`; raises MissingExtra, or ModelError for a damaged file."""
    with silent():
        runtime = require("executorch.runtime", "executorch")
        try:
            return runtime.Runtime.get().load_program(path)
        except Exception as error:  # RuntimeError, by the build also others
            raise unloadable(path.name, "ExecuTorch", error) from None


def constant(program: Any, name: str) -> str | None:
    """What a constant method of a program returns; None where there is none."""
    if name not in program.method_names:
        return None
    with silent():
        (found,) = program.load_method(name).execute(())
    return str(found)


def _placement_of(program: Any, path: Path) -> Placement | None:
    text = constant(program, PLACEMENT)
    where = f"the placement in {path.name}"
    return None if text is None else strict.decode(Placement, json.loads(text), where, ModelError)


_open_sessions: Final[WeakSet[ExecutorchSession]] = WeakSet()


def _set_threads(threads: int) -> None:
    """Give the process's thread pool that many threads.

    Resizing replaces the pool. Methods keep a pointer to the old one, so it must not happen under them.
    """
    pool = require("executorch.extension.pybindings.portable_lib", "executorch")
    there = pool._threadpool_get_thread_count()
    if there == threads:
        return
    if len(_open_sessions):
        raise ModelError(
            f"ExecuTorch has one thread pool a process, and models in use here have {there} threads: "
            f"load this one with threads={there}, or in a process of its own"
        )
    with silent():
        pool._unsafe_reset_threadpool(threads)
