"""The family of mistakes a user can make; the command line prints their one line and exits with code 2.

HeteroError (ValueError)
├── SpaceMismatch      vectors of two spaces were about to be compared
├── BundleError        a bundle is damaged, unsafe, or of an unknown schema
├── ModelError         a model file cannot be loaded or does not keep the contract
├── DataError          images, labels, archives, manifests
├── RecipeError        a recipe or an override
├── DeviceError        a device or runner failed
│   ├── TransferError  a file arrived damaged on a device, or came back damaged
│   ├── DeviceBusy     another host is using the device
│   └── UnknownBlock   a latency table has no measurement of a block
├── DiskFull           no space left for a result
└── MissingExtra       an optional dependency is not installed
"""

from __future__ import annotations

import importlib
import sys
import zipimport
from types import ModuleType


class HeteroError(ValueError):
    """A mistake of the user or of the input; the message says what is wrong and what to do."""


class SpaceMismatch(HeteroError):
    """Two vectors, bundles or galleries belong to different spaces."""


class BundleError(HeteroError):
    """A bundle is incomplete, damaged, unsafe or newer than this library."""


class ModelError(HeteroError):
    """A model file cannot be loaded, or breaks the input/output contract."""


class DataError(HeteroError):
    """Images, labels, archives or manifests that cannot be used."""


class RecipeError(HeteroError):
    """A recipe or an override that does not validate."""


class DeviceError(HeteroError):
    """A device or the runner on it failed."""


class TransferError(DeviceError):
    """A file was damaged on its way to a device or back."""


class DeviceBusy(DeviceError):
    """Another host, or another job of this one, is using the device."""


class UnknownBlock(DeviceError):
    """A latency table has no measurement of a block."""


class DiskFull(HeteroError):
    """No space is left for a result."""


class MissingExtra(HeteroError):
    """An optional dependency is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise MissingExtra naming what to install.

    That is the extra of this distribution that brings it; where this package runs from the single-file
    runner, which no extra belongs to, the module's own distribution.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        if missing != module.partition(".")[0]:
            raise  # a broken installation of that dependency, not an absent extra
        raise MissingExtra(f"{missing} is not installed: {_remedy(missing, extra)}") from None


def _remedy(module: str, extra: str) -> str:
    if isinstance(__spec__.loader, zipimport.zipimporter):
        return f"run there: {sys.executable} -m pip install {module.replace('_', '-')}"
    return f"pip install 'hetero[{extra}]'"
