"""The bundle's card: what the model is, its contract, and how to run and check it."""

from __future__ import annotations

from collections.abc import Sequence

from hetero.models.store import Model
from hetero_devices.bundle import ModelFile

_CARD = """\
# {name}

An embedding model for retrieval: {parameters:,} parameters, {macs:,} multiply-accumulates per image.
It embeds into the space `{space.id}`: search only among vectors of that space, whichever model made them.

## Contract

- Input `image`: RGB pixels 0..255 of {size} x {size}, channels last. ONNX: uint8 `[N, {size}, {size}, 3]`;
  LiteRT: float32 `[1, {size}, {size}, 3]` holding the same values.
- Resize before: the centre square, {resize}, antialiased. Nothing else; scaling is inside the model.
- Output `embedding`: float32 `[N, {space.dim}]` of unit length. Similarity is the inner product.

| file | precision | bytes | 1 - cosine allowed on golden images |
|---|---|---|---|
{files}

## Check it on your device

`golden/images.npy` holds {count} images, `golden/vectors.npy` the float network's vectors of them. Embed the
images on the device and compare row by row: 1 - inner product must not exceed the table's last column.
`hetero verify` does this and checks the sha256 of every file.

{usages}"""

_USAGE = {
    "onnx": """\
## Python, ONNX Runtime

```python
import numpy as np
import onnxruntime

images = np.load("golden/images.npy")
session = onnxruntime.InferenceSession("{file}")
(vectors,) = session.run(["embedding"], {{"image": images}})
assert (1 - (vectors * np.load("golden/vectors.npy")).sum(axis=1)).max() <= {tolerance}
```
""",
    "tflite": """\
## Python, LiteRT

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter

images = np.load("golden/images.npy").astype(np.float32)
embed = Interpreter("{file}").get_signature_runner()
vectors = np.concatenate([embed(image=image[None])["embedding"] for image in images])
assert (1 - (vectors * np.load("golden/vectors.npy")).sum(axis=1)).max() <= {tolerance}
```
""",
}


def card(name: str, model: Model, models: Sequence[ModelFile], golden: int) -> str:
    """The bundle's README.md; `golden`: the number of golden images."""
    float_out = [file for file in models if not file.precision.endswith("_io")]  # others need normalising
    smallest = {file.format: file for file in sorted(float_out, key=lambda file: -file.bytes)}
    cost, preprocessing = model.cost, model.deploy.preprocessing
    return _CARD.format(
        name=name,
        parameters=cost.parameters,
        macs=cost.macs,
        space=model.space,
        size=preprocessing.size,
        resize=preprocessing.resize,
        files="\n".join(map(_row, models)),
        count=golden,
        usages="\n".join(_usage(file) for file in smallest.values()),
    )


def _row(file: ModelFile) -> str:
    return f"| `{file.file}` | {file.precision} | {file.bytes:,} | {file.tolerance:g} |"


def _usage(file: ModelFile) -> str:
    return _USAGE[file.format].format(file=file.file, tolerance=file.tolerance)
