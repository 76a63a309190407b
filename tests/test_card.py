"""The bundle's card: its examples run as they stand there, and every language states the right contract."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hetero.data.imageset import Images
from hetero.models.build import build, preset
from hetero.models.foreign.adopt import adopt
from hetero_devices.bundle import Bundle, ModelFile
from hetero_export.bundle import write_bundle
from hetero_export.calibration import Calibration
from hetero_export.card import card

SIZE = 16
NODE_MODULES = Path(__file__).parent / "javascript" / "node_modules"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
needs_runtime = pytest.mark.skipif(
    not (NODE_MODULES / "onnxruntime-web").is_dir(),
    reason="onnxruntime-web is not installed: npm install --ignore-scripts --prefix tests/javascript",
)


def images(count: int, seed: int) -> Images:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    model = adopt(build(preset("elastic-xs")), torch.zeros(2, 3, SIZE, SIZE))
    return write_bundle(
        model,
        tmp_path_factory.mktemp("card") / "bundle",
        name="carded",
        calibration=Calibration(images(16, 0)),
        golden=images(4, 1),
        source={},
    )


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def read(bundle: Bundle) -> str:
    return (bundle.root / "README.md").read_text()


@pytest.fixture
def javascript(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle beside which node finds its modules."""
    shutil.copytree(bundle.root, tmp_path / "app")
    if NODE_MODULES.is_dir():
        (tmp_path / "app" / "node_modules").symlink_to(NODE_MODULES.resolve())
    return tmp_path / "app"


def node(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    (folder / "example.mjs").write_text(code)
    return subprocess.run(
        ["node", "example.mjs"], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )


@needs_node
@needs_runtime
def test_the_javascript_example_runs_as_it_stands(bundle: Bundle, javascript: Path) -> None:
    example, _ = blocks(read(bundle), "javascript")
    done = node(javascript, example)
    assert done.returncode == 0, done.stderr


@needs_node
@needs_runtime
def test_the_javascript_example_notices_other_vectors(bundle: Bundle, javascript: Path) -> None:
    example, _ = blocks(read(bundle), "javascript")
    vectors = np.load(javascript / "golden" / "vectors.npy")
    np.save(javascript / "golden" / "vectors.npy", vectors[:, ::-1].copy())
    done = node(javascript, example)
    assert done.returncode != 0
    assert "golden image 0" in done.stderr


@needs_node
@pytest.mark.parametrize(
    ("width", "height"), [(50, 37), (37, 50), (SIZE, SIZE), (9, 30)], ids=lambda v: str(v)
)
def test_the_javascript_resizing_is_pillow_s(bundle: Bundle, tmp_path: Path, width: int, height: int) -> None:
    _, resizing = blocks(read(bundle), "javascript")
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    (tmp_path / "in").write_bytes(picture.tobytes())
    call = f'fs.writeFileSync("out", resize(fs.readFileSync("in"), {width}, {height}, {SIZE}));\n'
    done = node(tmp_path, f'import fs from "node:fs";\n{resizing}{call}')
    assert done.returncode == 0, done.stderr
    found = np.frombuffer((tmp_path / "out").read_bytes(), np.uint8).reshape(SIZE, SIZE, 3)
    expected = reference(bundle, tmp_path, picture)
    assert np.abs(found.astype(int) - expected).max() <= 1


def reference(bundle: Bundle, folder: Path, picture: Images) -> Images:
    """What the card's Python makes of a picture; it is the library's own resizing."""
    from hetero.data.images import resize

    Image.fromarray(picture).save(folder / "in.png")
    names: dict[str, object] = {}
    exec(blocks(read(bundle), "python")[-1], names)  # noqa: S102 - our own text, as a user would run it
    prepare = names["prepare"]
    assert callable(prepare)
    found: Images = prepare(str(folder / "in.png"))
    np.testing.assert_array_equal(found, resize(picture, SIZE))
    return found


def test_every_python_example_runs_as_it_stands(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.root)
    examples = blocks(read(bundle), "python")
    assert len(examples) == 3
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})  # noqa: S102


@pytest.mark.parametrize(("language", "count"), [("kotlin", 2), ("swift", 2), ("cpp", 2), ("javascript", 2)])
def test_every_language_is_there_with_the_bundle_s_own_numbers(
    bundle: Bundle, language: str, count: int
) -> None:
    examples = blocks(read(bundle), language)
    assert len(examples) == count
    text = read(bundle)
    for file in ("model.int8.onnx", "model.int8.tflite"):
        assert text.count(file) >= 5, file  # the table and four or more languages
    assert f"{SIZE * SIZE * 3}" in text
    assert "{{" not in text
    assert "{%" not in text


@pytest.mark.parametrize("language", ["kotlin", "swift", "cpp"])
def test_brackets_of_what_is_not_run_here_are_balanced(bundle: Bundle, language: str) -> None:
    for example in blocks(read(bundle), language):
        code = re.sub(r"//.*|/\*.*?\*/|\"[^\"]*\"", "", example)
        for opening, closing in ("()", "[]", "{}"):
            assert code.count(opening) == code.count(closing), (opening, example)


def test_the_npy_layout_is_as_the_card_says(bundle: Bundle) -> None:
    for name, array in (("images", bundle.golden_images()), ("vectors", bundle.golden_vectors())):
        content = (bundle.root / "golden" / f"{name}.npy").read_bytes()
        start = 10 + int.from_bytes(content[8:10], "little")
        assert content[start:] == array.astype(array.dtype.newbyteorder("<")).tobytes()


def test_a_format_that_is_not_there_is_not_explained(bundle: Bundle) -> None:
    model = adopt(build(preset("elastic-xs")), torch.zeros(2, 3, SIZE, SIZE))
    only = [file for file in bundle.manifest.models if file.format == "onnx"]
    text = card("onnx only", model, only, 4)
    assert blocks(text, "swift")
    assert ".tflite" not in text
    assert "LiteRT(" not in text


def test_examples_avoid_files_of_integer_ends(bundle: Bundle) -> None:
    model = adopt(build(preset("elastic-xs")), torch.zeros(2, 3, SIZE, SIZE))
    smaller = ModelFile(
        file="model.ends.tflite",
        sha256="0" * 64,
        bytes=1,
        format="tflite",
        precision="int8",
        input_dtype="int8",
        tolerance=0.1,
    )
    text = card("both", model, [smaller, *bundle.manifest.models], 4)
    assert text.count("model.ends.tflite") == 1  # in the table
