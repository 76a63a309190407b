"""Trained models on disk: a folder of weights (safetensors) and a description (JSON), never a pickle."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from hetero.models.build import Family, NetworkConfig, build
from hetero.models.cost import Cost, cost
from hetero.models.deploy import Deploy
from hetero.models.encoder import TorchEncoder
from hetero.models.foreign.config import ForeignConfig
from hetero.tensors import load_tensors, save_tensors
from hetero_devices.errors import ModelError
from hetero_devices.files import read_json, write_json
from hetero_devices.space import Preprocessing, Space, space_id

DESCRIPTION = "model.json"
_WEIGHTS = "network.safetensors"
_HEAD = "head.safetensors"
_network: TypeAdapter[Family] = TypeAdapter(NetworkConfig)


@dataclass(frozen=True)
class Model:
    """A trained network with its architecture and space.

    head: class prototypes float32 [C, D] or None; classes: their names in that order, () where unknown.
    """

    deploy: Deploy
    config: Family | ForeignConfig
    space: Space
    head: Tensor | None = None
    classes: tuple[str, ...] = ()

    @property
    def encoder(self) -> TorchEncoder:
        return TorchEncoder(self.deploy, self.space)

    @property
    def cost(self) -> Cost:
        return cost(self.deploy.network, self.deploy.preprocessing.size)

    def save(self, folder: Path, training: dict[str, Any]) -> None:
        """Write the model; the description comes last, so its presence means the model is whole."""
        assert not isinstance(self.config, ForeignConfig), "a foreign network cannot be built again from here"
        save_tensors(folder / _WEIGHTS, self.deploy.network.state_dict())
        if self.head is not None:
            save_tensors(folder / _HEAD, {"prototypes": self.head})
        description = {
            "network": self.config.model_dump(mode="json"),
            "preprocessing": self.deploy.preprocessing.to_json(),
            "space": self.space.to_json(),
            "weights_sha256": weights_digest(self.deploy.network).hex(),
            "training": training,
            "classes": list(self.classes),
        }
        write_json(folder / DESCRIPTION, description)


def load(folder: Path) -> Model:
    """Open a folder written by `Model.save`; ModelError when it is incomplete or its weights were changed."""
    if not (folder / DESCRIPTION).exists():
        raise ModelError(
            f"no trained model in {folder}: {DESCRIPTION} is missing; train it with 'hetero train'"
        )
    description = read_json(folder / DESCRIPTION)
    try:
        config = _network.validate_python(description["network"])
        preprocessing = Preprocessing.from_json(description["preprocessing"])
        space = Space.from_json(description["space"])
        network = build(config, weights=False)
        network.load_state_dict(load_tensors(folder / _WEIGHTS)[0])
    except (KeyError, TypeError, RuntimeError, ValidationError) as error:
        raise ModelError(f"{folder} is not a model of this version: {str(error).splitlines()[0]}") from None
    if weights_digest(network).hex() != description.get("weights_sha256"):
        raise ModelError(
            f"the weights in {folder} are not those its description names: train or copy it again"
        )
    head = load_tensors(folder / _HEAD)[0]["prototypes"] if (folder / _HEAD).exists() else None
    classes = tuple(map(str, description.get("classes", ())))  # models of earlier versions say nothing
    if head is not None and classes and len(classes) != len(head):
        raise ModelError(f"{folder} names {len(classes)} classes for a head of {len(head)}: train it again")
    return Model(Deploy(network, preprocessing).eval(), config, space, head, classes)


def check_target(folder: Path) -> None:
    """Raise ModelError unless a model may be saved there: it is nothing, an empty folder, or a model's."""
    if folder.is_file():
        raise ModelError(f"{folder} is a file: name a folder for the model")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION).is_file():
        raise ModelError(f"{folder} exists and is not a trained model's: name another folder")


def define_space(network: nn.Module, preprocessing: Preprocessing, dim: int) -> Space:
    """The space a network defines: its weights, preprocessing and dimension."""
    return Space(space_id(weights_digest(network), preprocessing, dim), dim)


def weights_digest(network: nn.Module) -> bytes:
    """SHA-256 over names, dtypes, shapes and bytes of every tensor, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.digest()
