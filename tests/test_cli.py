"""The command line: help, exit codes, and one line for every kind of bad input."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from hetero.cli.main import VERBS, cli
from hetero_devices.space import Embeddings, Space, prefix_space

ROOT = Path(__file__).parents[1]


def hetero(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hetero", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )


def refused(*arguments: str | Path, **environment: str) -> str:
    """The one line of a command that must fail with exit code 2."""
    done = hetero(*arguments, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str) -> None:
    done = hetero(verb, "--help")
    assert done.returncode == 0
    assert f"hetero {verb}" in done.stdout.split("Example:")[1]


def test_every_command_has_an_example_and_prints_json() -> None:
    found = dict(leaves(cli, "hetero"))
    assert len(found) >= 34
    for name, command in found.items():
        assert command.help is not None
        assert name in command.help.split("Example:")[1], name
        assert "as_json" in {parameter.name for parameter in command.params}, name


def leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for verb in command.list_commands(context):
        below = command.get_command(context, verb)
        assert below is not None
        yield from leaves(below, f"{name} {verb}")


def test_the_reference_is_what_the_commands_say() -> None:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs" / "generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TARGET.read_text() == module.reference(), "run `make docs`"


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'pydantic', 'rich'}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "sys.argv = ['hetero', '--help']\n"
        "from hetero.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def test_a_missing_extra_is_one_line() -> None:
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
        "sys.meta_path.insert(0, Block())\n"
        "sys.argv = ['hetero', 'train', 'demo']\n"
        "from hetero.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: torch is not installed: pip install 'hetero[train]'\n"


def test_doctor_names_every_extra() -> None:
    done = hetero("doctor", "--json")
    assert done.returncode == 0
    names = {finding["name"] for finding in json.loads(done.stdout)}
    assert {"python", "train", "export", "device-onnx", "device-litert", "parquet", "processor"} <= names


def test_dry_run_prints_the_resolved_recipe_and_does_nothing(tmp_path: Path) -> None:
    done = hetero("train", "demo", "data.size=24", "--seed", "5", "--dry-run", "--run", tmp_path / "run")
    recipe = json.loads(done.stdout)
    assert (recipe["data"]["size"], recipe["seed"]) == (24, 5)
    assert not (tmp_path / "run").exists()


def test_an_unknown_command_lists_the_known(tmp_path: Path) -> None:
    done = hetero("trian")
    assert done.returncode == 2
    assert "there is no command 'trian'" in done.stderr


def test_no_such_data() -> None:
    assert "glyphs" in refused("data", "glyphz")


def test_a_misspelt_recipe_key() -> None:
    assert "nearest is 'student.fit.steps'" in refused("train", "demo", "student.fit.step=3")


def test_no_such_run(tmp_path: Path) -> None:
    assert "is not a run folder" in refused("export", tmp_path)
    assert "is not a run folder" in refused("report", tmp_path)


def test_no_such_bundle(tmp_path: Path) -> None:
    assert "no bundle at" in refused("verify", tmp_path / "none")
    assert "no bundle at" in refused("bench", tmp_path / "none")


def test_a_bundle_with_a_changed_byte(tiny_bundle: Path) -> None:
    model = next(tiny_bundle.glob("model.*"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert "was changed" in refused("verify", tiny_bundle)


def test_a_sound_bundle_passes(tiny_bundle: Path) -> None:
    done = hetero("verify", tiny_bundle, "--json")
    assert done.returncode == 0, done.stderr
    assert all(check["passed"] for check in json.loads(done.stdout))


def test_bench_measures_every_model(tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    gates = ("gates.float_layers=null", "gates.delegated_share=null")  # the tiny nets multiply floats
    done = hetero("bench", tiny_bundle, *gates, "--samples", "20", "--seconds", "0", "-o", out)
    assert done.returncode == 0, done.stderr + done.stdout
    runs = json.loads((out / "report.json").read_text())["runs"]
    assert len(runs) == 3
    for run in runs:
        latency = run["profile"]["latency"]
        assert run["artefact"].removeprefix("model.") in done.stdout
        assert latency["samples"] >= 20
        assert latency["p50_ms"] <= latency["p95_ms"]
    assert "model.int8.tflite on host" in (out / "report.html").read_text()


def test_bench_refuses_what_cannot_be_meant(tiny_bundle: Path) -> None:
    assert "there is no device 'fone'" in refused("bench", tiny_bundle, "--on", "fone")
    assert "named twice" in refused("bench", tiny_bundle, "--on", "host", "--on", "host")
    assert "the bundle has no such model" in refused("bench", tiny_bundle, "--precision", "mixed")
    assert "only gates.KEY=VALUE" in refused("bench", tiny_bundle, "data.size=3")


def test_a_truncated_onnx_anchor(tiny_onnx: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_onnx()
    path.write_bytes(path.read_bytes()[:-40])
    line = refused("train", "demo", f"anchor.source={path}", "--run", tmp_path / "run")
    assert path.name in line


def picture(value: int, size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def archive(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def sound(classes: int = 6, each: int = 3) -> dict[str, bytes]:
    return {f"c{c}/{i}.png": picture(20 * c + i) for c in range(classes) for i in range(each)}


def data_refused(path: Path, cache: Path) -> str:
    return refused("data", path, "--size", "16", HETERO_CACHE=str(cache))


def test_a_corrupt_image_in_an_archive_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "set.zip", sound() | {"c1/1.png": picture(3)[:40]})
    line = data_refused(path, tmp_path / "cache")
    assert "set.zip" in line
    assert "c1/1.png" in line


def test_an_archive_that_escapes_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "set.zip", sound() | {"../c1/9.png": picture(3)})
    assert ".." in data_refused(path, tmp_path / "cache")


def test_a_class_of_one_image_is_named(tmp_path: Path) -> None:
    entries = {n: b for n, b in sound().items() if n.endswith("/0.png")}
    assert "image" in data_refused(archive(tmp_path / "set.zip", entries), tmp_path / "cache")


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    for name, content in sound().items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    (tmp_path / "set" / "hollow").mkdir()
    assert "hollow" in data_refused(tmp_path / "set", tmp_path / "cache")


def test_images_of_nan_are_refused(tmp_path: Path) -> None:
    images = np.full((12, 16, 16, 3), np.nan, np.float32)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(12) // 3)
    assert "NaN" in data_refused(tmp_path / "set.npz", tmp_path / "cache")


def embeddings(folder: Path, space: str, count: int = 6) -> Path:
    vectors = np.eye(count, dtype=np.float32)
    ids = np.arange(count, dtype=np.int64)
    Embeddings(vectors, ids, ids // 2, Space(space, count)).save(folder)
    return folder


def test_vectors_of_another_space_are_refused_naming_both(tmp_path: Path) -> None:
    query, gallery = embeddings(tmp_path / "q", "a" * 16), embeddings(tmp_path / "g", "b" * 16)
    line = refused("matrix", "--query", f"phone={query}", "--gallery", f"cloud={gallery}")
    assert "a" * 16 in line
    assert "b" * 16 in line


def test_a_matrix_of_one_space(tmp_path: Path) -> None:
    both = embeddings(tmp_path / "both", "a" * 16)
    done = hetero("matrix", "--query", f"phone={both}", "--gallery", f"cloud={both}", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["queries"] == ["phone"]
    shown = hetero("matrix", "--query", f"phone={both}", "--gallery", f"cloud={both}")
    assert "phone" in shown.stdout
    assert "cloud" in shown.stdout


def test_damaged_vectors_are_one_line(tmp_path: Path) -> None:
    both = embeddings(tmp_path / "both", "a" * 16)
    (both / "vectors.npy").write_bytes(b"\x93NUMPY nonsense")
    assert "vectors.npy" in refused("matrix", "--query", f"a={both}", "--gallery", f"a={both}")


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk needs root"
)
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        line = refused(
            "train", "demo", "anchor.fit.steps=2", "--run", disk / "run", HETERO_CACHE=str(disk / "cache")
        )
        assert "space" in line
        assert not list(disk.rglob("*.safetensors"))
    finally:
        subprocess.run(["umount", disk], check=True)


def labelled(path: Path) -> Path:
    """Arrays of 16 classes of 4 noisy 8-pixel images, half of the classes for test."""
    rng = np.random.default_rng(0)
    centres = rng.integers(60, 196, (16, 8, 8, 3))
    images = centres[np.arange(64) // 4] + rng.integers(-40, 41, (64, 8, 8, 3))
    np.savez(path, images=images.astype(np.uint8), labels=np.arange(64) // 4)
    return path


def test_a_bundle_alone_is_gated_by_images_and_the_stored_gallery(tiny_bundle: Path, tmp_path: Path) -> None:
    images, cache = labelled(tmp_path / "set.npz"), {"HETERO_CACHE": str(tmp_path / "cache")}
    done = hetero("embed", tiny_bundle, images, "-o", tmp_path / "cloud", "--split", "test", **cache)
    assert done.returncode == 0, done.stderr
    command: list[str | Path] = [
        "verify",
        tiny_bundle,
        "--queries",
        images,
        "--gallery",
        tmp_path / "cloud" / "test",
    ]
    sound = hetero(*command, "gates.delegated_share=0.5", "gates.float_layers=1", **cache)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "model.int8.tflite: change of Recall@1" in sound.stdout
    strict = hetero(*command, "gates.float_layers=1", "gates.size_kb=1", "--json", **cache)
    assert strict.returncode == 1, strict.stderr
    failed = [result["name"] for result in json.loads(strict.stdout) if not result["passed"]]
    assert failed == ["smallest file, kB"]


def test_gates_that_cannot_be_asked_for_are_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["gates.size_kb=1"], "add --gate"),
        (["--queries", "glyphs"], "both --queries and --gallery"),
        (["--gate", "gates.size=1"], "gates.size_kb"),
    ):
        done = hetero("verify", tiny_bundle, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_gallery_may_be_cut_to_a_prefix(tiny_bundle: Path, tmp_path: Path) -> None:
    images, cache = labelled(tmp_path / "set.npz"), {"HETERO_CACHE": str(tmp_path / "cache")}
    target = tmp_path / "cut"
    done = hetero("embed", tiny_bundle, images, "-o", target, "--split", "test", "--dim", "4", **cache)
    assert done.returncode == 0, done.stderr
    cut = Embeddings.load(target / "test")
    cut.check()
    assert cut.space == prefix_space(Space("0" * 16, 16), 4)
    assert "cannot be cut" in refused(
        "embed", tiny_bundle, images, "-o", tmp_path / "x", "--dim", "17", **cache
    )
