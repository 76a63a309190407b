"""Methods, their common start, the choice of a rate, and a folder that continues."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hetero.linear.adaptation import Adaptation
from hetero.linear.calibration import calibrated_scale
from hetero.linear.classifier import Classifier, outputs, pixels_of
from hetero.linear.config import FinetuneConfig
from hetero.linear.fitting import Curve, saved_bytes
from hetero.linear.methods import METHODS, chosen, last_block
from hetero.linear.source import Source, open_source
from hetero.linear.sweep import best
from hetero.linear.tangent import Tangent
from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero.models.encoder import RuntimeEncoder
from hetero.models.store import Model, define_space
from hetero.recipes.resolve import changed
from hetero_devices.errors import ModelError, RecipeError
from hetero_devices.space import Preprocessing
from hetero_export.finetuned import export_classifier

SMALL = preset("residual-s").model_copy(
    update={"widths": (8, 16), "depths": (1, 1), "dim": 16, "activation": "leaky_relu"}
)


def source() -> Source:
    torch.manual_seed(0)
    deploy = Deploy(build(SMALL), Preprocessing(size=16)).eval()
    return Source(Model(deploy, SMALL, define_space(deploy.network, deploy.preprocessing, 16)))


def config(arrays: Path, *overrides: str) -> FinetuneConfig:
    return changed(
        FinetuneConfig(),
        [f"task.source={arrays}", "task.shots=2", "task.validation=2", "lesson.epochs=2", *overrides],
    )


def test_logits_are_brought_to_the_scale_of_probabilities() -> None:
    labels = torch.arange(4).repeat(25)
    wrong = torch.where(torch.arange(100) < 20, (labels + 1) % 4, labels)  # right in four of five
    scale = calibrated_scale(15 * torch.eye(4)[wrong], labels)
    # p(own) = 4/5 at logit z: e^z / (e^z + 3) = 4/5, so z = log 12
    assert scale * 15 == pytest.approx(torch.log(torch.tensor(12.0)).item(), rel=0.06)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("residual-s", ("features.4", "embed")), ("elastic-xs", ("features.7", "embed"))],
)
def test_the_last_block_of_the_library_s_networks(name: str, expected: tuple[str, ...]) -> None:
    assert last_block(build(preset(name))) == expected


def test_the_last_block_of_a_projected_network_and_of_a_single_layer() -> None:
    projected = build(preset("residual-s").model_copy(update={"project": 64}))
    assert last_block(projected) == ("0", "1")
    assert last_block(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == ("0", "2")


def test_of_equal_scores_the_middle_one_is_taken() -> None:
    assert best({0.1: 0.5, 0.2: 0.9, 0.3: 0.9, 0.4: 0.9, 0.5: 0.2}) == 0.3


def test_a_curve_converges_where_it_stays_near_its_end() -> None:
    assert Curve((0.5, 0.9, 0.7, 0.895, 0.9), 1.0).converged() == 4
    assert Curve((0.9, 0.9), 1.0).converged() == 1


def test_names_of_methods() -> None:
    assert [m.name for m in chosen(["lqf", "head"])] == ["head", "lqf"]
    assert len(chosen(["all"])) == len(METHODS)
    with pytest.raises(RecipeError, match="nearest is 'lqf-sgd'"):
        chosen(["lqf-sdg"])


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_starts_at_one_function_and_moves_what_it_says(
    arrays: Path, tmp_path: Path, name: str
) -> None:
    adaptation = Adaptation.open(tmp_path, source(), config(arrays))
    method = METHODS[name]
    start, model = adaptation.start(method), adaptation.model_of(method)
    pixels = pixels_of(adaptation.task.test)[:3].float()
    torch.testing.assert_close(model(pixels), start(pixels))
    moving = {n for n, p in model.named_parameters() if p.requires_grad}
    if method.form == "expansion":
        assert isinstance(model, Tangent)
        assert ("deploy.network.features.0.0.weight" in model.names) != method.last
        assert "head.weight" in model.names
    else:
        assert moving


def test_an_outcome_is_kept_and_read_again(arrays: Path, tmp_path: Path) -> None:
    adaptation = Adaptation.open(tmp_path, source(), config(arrays, "rates=[1.0e-5, 1.0e-4]"))
    first = adaptation.outcome(METHODS["lqf-sgd"])
    assert set(first.curves) == {1e-5, 1e-4}
    again = Adaptation.open(tmp_path, source(), config(arrays, "rates=[1.0e-5, 1.0e-4]")).outcome(
        METHODS["lqf-sgd"]
    )
    assert again.curves == first.curves
    assert again.correct.values.tolist() == first.correct.values.tolist()
    kept = list(tmp_path.glob("lqf-sgd/*/trained.safetensors"))
    assert [path.parent.name for path in kept] == [f"{first.rate:g}"]
    with pytest.raises(RecipeError, match="asked otherwise"):
        Adaptation.open(tmp_path, source(), config(arrays, "task.shots=3"))


def test_the_trained_model_is_the_one_that_was_scored(arrays: Path, tmp_path: Path) -> None:
    adaptation = Adaptation.open(tmp_path, source(), config(arrays, "rates=[1.0e-4]"))
    for name in ("finetune", "lqf-sgd", "gradients", "head"):
        outcome = adaptation.outcome(METHODS[name])
        assert adaptation.score(adaptation.trained(METHODS[name])) == pytest.approx(outcome.curve.scores[-1])


def test_an_expansion_of_a_toy_task_learns(arrays: Path, tmp_path: Path) -> None:
    """Twelve noisy prototypes are separable: a random network's expansion must fit its training images."""
    adaptation = Adaptation.open(tmp_path, source(), config(arrays, "rates=[0.1]", "lesson.epochs=8"))
    adaptation.outcome(METHODS["lqf-sgd"])
    metrics = (tmp_path / "lqf-sgd" / "0.1" / "metrics.jsonl").read_text().splitlines()
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in metrics]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["lqf", "lqf-sgd"])
def test_rates_of_an_expansion_are_in_units_of_the_largest_stable_one(
    arrays: Path, tmp_path: Path, name: str
) -> None:
    """Descent with momentum m on a quadratic is stable below 2 (1 + m) / curvature: here 3.8 units."""
    whole = ("lesson.batch=24", "lesson.epochs=40", "probe=24", "lesson.decay=1.0e-2")
    adaptation = Adaptation.open(tmp_path, source(), config(arrays, *whole, "rates=[1.0, 40.0]"))
    adaptation.outcome(METHODS[name])

    def losses(rate: str) -> list[float]:
        lines = (tmp_path / name / rate / "metrics.jsonl").read_text().splitlines()
        return [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]

    assert losses("1")[-1] < losses("1")[0]
    assert max(losses("40")) > 100 * losses("40")[0]


def test_a_diverged_rate_scores_nothing(arrays: Path, tmp_path: Path) -> None:
    adaptation = Adaptation.open(tmp_path, source(), config(arrays, "rates=[1.0e+30, 1.0e-5]"))
    outcome = adaptation.outcome(METHODS["lqf-sgd"])
    assert outcome.rate == 1e-5
    assert outcome.curves[1e30].scores[-1] == 0


def test_an_expansion_keeps_more_for_the_way_back() -> None:
    classifier = Classifier(source().model.deploy, 4)
    pixels = torch.zeros(4, 3, 16, 16)
    plain, expanded = saved_bytes(classifier, pixels), saved_bytes(Tangent(classifier), pixels)
    assert 0 < plain < 4 * expanded


def test_what_cannot_be_adapted_is_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a bundle, made for inference"):
        open_source(str(tiny_bundle))
    with pytest.raises(ModelError, match="neither a run nor"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["finetune", "lqf", *(pytest.param(n, marks=pytest.mark.slow) for n in ("head", "gradients"))]
)
def test_the_bundle_of_a_classifier_answers_as_the_classifier_does(
    name: str, arrays: Path, tmp_path: Path
) -> None:
    rates = () if name == "head" else ("rates=[0.01]",)
    adaptation, method = Adaptation.open(tmp_path / "a", source(), config(arrays, *rates)), METHODS[name]
    bundle = export_classifier(adaptation, method, tmp_path / "bundle")
    test = adaptation.task.test
    logits = outputs(adaptation.trained(method), pixels_of(test)).numpy()
    unit = logits / np.linalg.norm(logits, axis=1, keepdims=True)
    space = bundle.manifest.space
    assert space.dim == adaptation.task.classes
    assert bundle.manifest.source["classes"] == list(test.class_names)
    for model in bundle.manifest.models:
        found = RuntimeEncoder(bundle.path(model), space, Preprocessing(size=16)).encode(test.images)
        if model.precision == "fp32":
            np.testing.assert_allclose(found, unit, atol=1e-4)
        else:
            assert (found * unit).sum(1).min() > 0.9
    moved = outputs(adaptation.start(method), pixels_of(test)).numpy()
    assert (np.abs(moved - logits).max() > 1e-3) == (name != "head")  # what was trained is what is exported
