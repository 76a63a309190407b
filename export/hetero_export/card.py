"""The bundle's card: what the model is, its contract, and how to run and check it, for app developers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hetero.models.store import Model
from hetero_devices.bundle import ModelFile
from hetero_devices.errors import require

_TEMPLATES = Path(__file__).parent / "usage"
_LANGUAGES = ("python", "kotlin", "swift", "javascript", "cpp")
_PLAIN = {"onnx": "uint8", "tflite": "float32", "pte": "uint8"}
"""Input of the files that the examples show: what the language interfaces take without further steps."""


def card(name: str, model: Model, models: Sequence[ModelFile], golden: int) -> str:
    """The bundle's README.md; `golden`: the number of golden images.

    Examples show the smallest file of each format; a language without one for a format shows none of it.
    """
    templates, preprocessing = _environment(), model.deploy.preprocessing
    about = {"size": preprocessing.size, "count": golden, "dim": model.space.dim}
    usages = [
        templates.get_template(f"{file.format}-{language}.md").render(
            about, file=file.file, tolerance=file.tolerance
        )
        for language in _LANGUAGES
        for file in _shown(models)
        if (_TEMPLATES / f"{file.format}-{language}.md").is_file()
    ]
    text: str = templates.get_template("card.md").render(
        about,
        name=name,
        parameters=model.cost.parameters,
        macs=model.cost.macs,
        space=model.space,
        resize=preprocessing.resize,
        models=models,
        usages=[*usages, templates.get_template("resizing.md").render(about)],
    )
    return text.rstrip() + "\n"


def _environment() -> Any:
    jinja2 = require("jinja2", "train")
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=False
    )


def _shown(models: Sequence[ModelFile]) -> list[ModelFile]:
    """The smallest file of each format, among those of the plain input where there are any."""
    plain = [file for file in models if file.input_dtype == _PLAIN[file.format]]
    smallest = {file.format: file for file in sorted(plain, key=lambda file: -file.bytes)}
    return list(smallest.values())
