"""A linearised compatible update of a student, scored in its anchor's gallery."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from hetero.linear.classifier import outputs, pixels_of
from hetero.linear.compatible import CompatibleUpdate
from hetero.linear.config import FinetuneConfig
from hetero.linear.methods import METHODS
from hetero.linear.source import Source, open_source
from hetero.models.encoder import RuntimeEncoder, embed
from hetero.models.layers import UnitNorm
from hetero.models.store import Model
from hetero.recipes.resolve import changed, resolve
from hetero.retrieval import MAP, evaluate
from hetero.runs import Run
from hetero_devices.errors import RecipeError
from hetero_devices.space import Preprocessing
from hetero_export.finetuned import export_update

NET = "{kind: residual, widths: [8, 16], depths: [1, 1], dim: 16, activation: leaky_relu}"


@pytest.fixture(scope="module")
def student(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """A student of hardly any training, so that its distance to the anchor is there to be learnt."""
    pairs = [f"{part}.{key}" for part in ("anchor", "student") for key in (f"network={NET}", "fit.steps=2")]
    pairs += [f"data.source={arrays}", "data.size=16", "anchor.fit.precision=fp32", "student.views=1"]
    pairs += ["export.formats=[onnx]", "export.precisions=[fp32]", "export.golden=4"]
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = Run.open(folder, resolve("demo", [*pairs, "student.alone=false", "gates.criterion=false"]))
    _ = run.student
    return open_source(str(folder))


def config(arrays: Path, *overrides: str) -> FinetuneConfig:
    pairs = [f"task.source={arrays}", "task.shots=4", "task.known=keep", "lesson.epochs=6"]
    return changed(FinetuneConfig(), [*pairs, "rates=[0.3]", *overrides])


def test_the_update_comes_nearer_to_the_anchor(arrays: Path, student: Source, tmp_path: Path) -> None:
    update = CompatibleUpdate.open(tmp_path, student, config(arrays))
    method = METHODS["lqf"]
    sweep = update._sweep(method)
    before = update._cosine(sweep.make())
    found = update.updated(method)
    assert 1 - found.curves[0.3].scores[-1] < 0.5 * (1 - before)
    assert found.gain("recall@1").difference.low <= found.gain("recall@1").difference.high
    again = CompatibleUpdate.open(tmp_path, student, config(arrays)).updated(method)
    assert np.array_equal(again.after[MAP].values, found.after[MAP].values)


@pytest.mark.parametrize("name", ["lqf", "finetune-mse"])
def test_the_bundle_of_an_update_embeds_as_the_update_does(
    name: str, arrays: Path, student: Source, tmp_path: Path
) -> None:
    rates = "rates=[0.3]" if name == "lqf" else "rates=[0.001]"
    update, method = CompatibleUpdate.open(tmp_path / "u", student, config(arrays, rates)), METHODS[name]
    wanted = update.updated(method).after[MAP]
    bundle = export_update(update, method, tmp_path / "bundle")
    encoder = RuntimeEncoder(
        bundle.path(bundle.manifest.models[0]), student.model.space, Preprocessing(size=16)
    )
    test = update.task.test
    trained = update._sweep(method).trained(update.updated(method).rate)
    torch_side = UnitNorm()(outputs(trained, pixels_of(test))).numpy()
    np.testing.assert_allclose(embed(encoder, test).vectors, torch_side, atol=1e-5)
    found = evaluate(embed(encoder, test), embed(update.anchor, test)).per_query(MAP)
    assert abs(found.mean - wanted.mean) < 1e-3
    assert np.abs(torch_side - embed(student.model.encoder, test).vectors).max() > 1e-3  # it moved


def test_before_is_the_student_as_it_was_not_its_leaky_conversion(
    arrays: Path, student: Source, tmp_path: Path
) -> None:
    class Converted(Source):
        def leaky(self, fit: object, folder: Path, seed: int) -> Model:
            other = copy.deepcopy(self.model)
            for parameter in other.deploy.parameters():
                torch.nn.init.normal_(parameter)
            return other

    update = CompatibleUpdate.open(tmp_path, Converted(student.model, student.run), config(arrays))
    found = update.updated(METHODS["lqf"]).before[MAP]
    own, gallery = embed(student.model.encoder, update.task.test), embed(update.anchor, update.task.test)
    assert found.mean == pytest.approx(evaluate(own, gallery).per_query(MAP).mean, abs=1e-6)


def test_what_has_no_anchor_or_no_square_is_refused(arrays: Path, student: Source, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="need a student in its run"):
        CompatibleUpdate.open(tmp_path, Source(student.model), config(arrays))
    update = CompatibleUpdate.open(tmp_path, student, config(arrays))
    with pytest.raises(RecipeError, match="'lqf-ce' cannot regress"):
        update.updated(METHODS["lqf-ce"])
