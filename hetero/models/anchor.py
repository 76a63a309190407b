"""The anchor: whatever defines the space, whether a network, an ONNX file or only stored vectors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from hetero.data.imageset import ImageSet
from hetero.models import store
from hetero.models.cost import Cost
from hetero.models.encoder import Encoder, RuntimeEncoder, embed
from hetero.models.foreign.adopt import adopt
from hetero.models.foreign.config import ForeignConfig
from hetero.models.foreign.source import is_foreign, open_model
from hetero_devices import runtimes
from hetero_devices.errors import DataError, ModelError
from hetero_devices.files import sha256_file
from hetero_devices.space import Embeddings, Preprocessing, Space, check_same, space_id

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Anchor:
    """A frozen model of which at least the embeddings are known.

    encoder: None for a black box; head: class prototypes float32 [C, D] or None; classes: their names;
    stored: embeddings by split, for a black box; cost: None where the network cannot be seen.
    """

    space: Space
    encoder: Encoder | None = None
    head: Tensor | None = None
    cost: Cost | None = None
    stored: dict[str, Embeddings] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def embed(self, split: Split, images: ImageSet) -> Embeddings:
        """The anchor's embeddings of `images`, which are (a part of) the named split."""
        if self.encoder is not None:
            return embed(self.encoder, images)
        if split not in self.stored:
            raise DataError(f"the anchor is a black box without stored embeddings of the {split} images")
        return _aligned(self.stored[split], images)


def from_model(model: store.Model) -> Anchor:
    """An anchor trained by this library."""
    return Anchor(model.space, model.encoder, model.head, model.cost, classes=model.classes)


def from_module(module: nn.Module, preprocessing: Preprocessing, head: Tensor | None = None) -> Anchor:
    """Any torch module: preprocessed float32 [N, 3, S, S] -> an embedding, as `foreign.adopt` takes it."""
    mean, std = preprocessing.offset / 255, preprocessing.scale / 255
    example = torch.zeros(2, 3, preprocessing.size, preprocessing.size)
    return from_model(replace(adopt(module, example, mean=(mean,) * 3, std=(std,) * 3), head=head))


def from_onnx(path: Path, preprocessing: Preprocessing) -> Anchor:
    """An ONNX file that takes uint8 [N, S, S, 3] `image` and returns unit-norm float32 [N, D]."""
    probe = np.zeros((1, preprocessing.size, preprocessing.size, 3), np.uint8)
    dim = runtimes.load(path, threads=1).run(probe).shape[1]
    space = Space(space_id(bytes.fromhex(sha256_file(path)), preprocessing, dim), dim)
    return Anchor(space, RuntimeEncoder(path, space, preprocessing, threads=2))


def from_embeddings(folder: Path) -> Anchor:
    """A black box: a folder of `train`, `test` (and `validation`) embeddings, as `hetero embed` writes."""
    stored = {split: Embeddings.load(folder / split) for split in ("train", "test")}
    if (folder / "validation").is_dir():
        stored["validation"] = Embeddings.load(folder / "validation")
    for name, embeddings in stored.items():
        check_same(
            stored["train"].space, embeddings.space, "stored train embeddings", f"stored {name} embeddings"
        )
        embeddings.check()
    return Anchor(stored["train"].space, stored=stored)


def bring(source: str, preprocessing: Preprocessing) -> Anchor:
    """Open what a recipe's `anchor.source` names; ModelError when it is none of the known kinds."""
    path = Path(source)
    if path.suffix == ".onnx":
        return from_onnx(path, preprocessing)
    if (path / store.DESCRIPTION).is_file():
        return from_model(store.load(path))
    if (path / "train").is_dir():
        return from_embeddings(path)
    if is_foreign(source):
        return from_model(open_model(ForeignConfig(source=source, size=preprocessing.size)))
    raise ModelError(
        f"anchor {source!r} is neither an .onnx file, a trained model's folder, a folder of embeddings "
        "with train/ and test/, timm:NAME, hf:NAME nor package.module:function"
    )


def _aligned(stored: Embeddings, images: ImageSet) -> Embeddings:
    """The stored rows of the given images, in their order."""
    order = np.argsort(stored.ids)
    place = np.searchsorted(stored.ids, images.ids, sorter=order).clip(max=len(order) - 1)
    rows = order[place]
    missing = stored.ids[rows] != images.ids
    if missing.any():
        raise DataError(
            f"{int(missing.sum())} images have no stored embedding (first id {images.ids[missing][0]})"
        )
    chosen = stored.select(rows)
    return Embeddings(chosen.vectors, chosen.ids, images.labels, stored.space)
