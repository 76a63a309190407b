"""A student of more dimensions than its anchor, whose first ones are the anchor's space."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from hetero.cli.main import cli
from hetero.models.encoder import embed
from hetero.objectives.influence import BctConfig
from hetero.objectives.regression import RegressionConfig
from hetero.objectives.softmax import MarginSoftmaxConfig
from hetero.objectives.terms import Given, Objective, Supervision
from hetero.recipes.resolve import changed, resolve
from hetero.retrieval import evaluate
from hetero.runs import Run
from hetero.runs.extension import LINK, link_to_anchor
from hetero.runs.sides import Sides, anchor_sides
from hetero.upgrades.evaluation import evaluate_run, evaluate_upgrade
from hetero.upgrades.links import Link, fit_link, method_named
from hetero.upgrades.links.prefix import Prefix
from hetero_devices import runtimes
from hetero_devices.errors import ModelError, RecipeError, SpaceMismatch
from hetero_devices.space import Embeddings, Space
from hetero_export.loop import export_run
from tests.small import small

SMALL = (
    *small("residual-s", steps=40, batch=16, views=1),
    "gates.criterion=false",
    "export.golden=4",
    "export.calibration=16",
)
EXTENDED = (
    "student.dimension=extended",
    "student.network.dim=24",
    "student.objective=[{term: margin_softmax}, {term: l2_regression, weight: 10}]",
)


def test_a_term_of_the_anchor_sees_the_first_dimensions_and_an_own_one_all() -> None:
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(5, 6, generator=generator), dim=1)
    target, labels = F.normalize(torch.randn(5, 4, generator=generator), dim=1), torch.arange(5) % 3
    objective = Objective([RegressionConfig(), MarginSoftmaxConfig()], Given(3, 4, True, None), own_dim=6)
    losses = objective(z, Supervision(labels, target, raw=3 * z))
    first = F.normalize(z[:, :4], dim=1)
    torch.testing.assert_close(losses["0_regression"], 1 - (first * target).sum(1).mean())
    head = objective.head()
    assert head is not None
    assert head.shape == (3, 6)


def test_dimensions_that_no_term_sees_are_refused() -> None:
    given = Given(3, 4, True, torch.randn(3, 4))
    with pytest.raises(RecipeError, match="would learn nothing: add a term without an anchor"):
        Objective([RegressionConfig(), BctConfig()], given, own_dim=6)


@pytest.fixture(scope="module")
def run(arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    old = Run.open(tmp_path_factory.mktemp("old"), resolve("demo", [*SMALL, f"data.source={arrays}"]))
    _ = old.whole_anchor
    given = [*SMALL, f"data.source={arrays}", f"anchor.source={old.folder / 'anchor'}", *EXTENDED]
    run = Run.open(tmp_path_factory.mktemp("new"), resolve("demo", given))
    _ = run.student
    return run


def test_its_link_is_its_first_dimensions(run: Run) -> None:
    assert run.student.space.dim == 24
    assert run.student.space != run.anchor.space
    link = link_to_anchor(run)
    new = embed(run.student.encoder, run.test.query)
    cut = link(new, side="query")
    assert cut.space == run.anchor.space
    expected = new.vectors[:, :16] / np.linalg.norm(new.vectors[:, :16], axis=1, keepdims=True)
    np.testing.assert_allclose(cut.vectors, expected, atol=1e-6)
    assert Link.load(run.folder / "student" / LINK).digest == link.digest
    assert link.fitted.cosine > 0.5  # training made it fit; the extra dimensions alone would not
    with pytest.raises(SpaceMismatch):
        evaluate(new, anchor_sides(run.anchor, run.test).gallery)


def test_the_verdict_searches_the_old_gallery_by_the_link(run: Run) -> None:
    found = evaluate_run(run)
    old, new = anchor_sides(run.anchor, run.test), embed(run.student.encoder, run.test.query)
    crossed = evaluate(link_to_anchor(run)(new), old.gallery).per_query("recall@1").mean
    assert found.new_old.value == pytest.approx(crossed)
    own = evaluate(new, embed(run.student.encoder, run.test.gallery)).per_query("recall@1").mean
    assert found.new_new.value == pytest.approx(own)
    with pytest.raises(SpaceMismatch):
        evaluate_upgrade(old, Sides(new, embed(run.student.encoder, run.test.gallery)))


def test_it_is_exported_into_either_space(run: Run, tmp_path: Path) -> None:
    link, images = link_to_anchor(run), run.test.query.images[:4]
    config = changed(run.recipe.export, ["formats=[onnx,tflite]", "precisions=[fp32]"])
    whole = export_run(run, tmp_path / "whole", config)
    linked = export_run(run, tmp_path / "linked", changed(config, [f"link={run.folder / 'student' / LINK}"]))
    assert (whole.manifest.space, linked.manifest.space) == (run.student.space, run.anchor.space)
    ids = np.arange(4)
    for model in whole.manifest.models:
        vectors = runtimes.load(whole.path(model)).run(images)
        cut = link(Embeddings(vectors, ids, ids, run.student.space))
        (same,) = (each for each in linked.manifest.models if each.format == model.format)
        np.testing.assert_allclose(runtimes.load(linked.path(same)).run(images), cut.vectors, atol=1e-5)


def test_the_command_names_the_link(run: Run) -> None:
    changes = [str(v) for v in (*SMALL, f"data.source={run.recipe.data.source}", *EXTENDED)]
    changes += [f"anchor.source={run.recipe.anchor.source}", "--run", str(run.folder)]
    done = CliRunner().invoke(cli, ["train", "demo", *changes, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["link"]["file"] == str(run.folder / "student" / LINK)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("student.network.dim=16",), "student.network.dim=16 does not extend the anchor's 16 dimensions"),
        (
            ("student.network.dim=24", "student.objective=[{term: regression}]"),
            "add a term without an anchor",
        ),
    ],
)
def test_what_cannot_be_extended_is_refused(
    run: Run, tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    given = [*SMALL, f"data.source={run.recipe.data.source}", f"anchor.source={run.recipe.anchor.source}"]
    with pytest.raises(RecipeError, match=message):
        _ = Run.open(tmp_path, resolve("demo", [*given, "student.dimension=extended", *changes])).student


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gates.criterion=true", "set gates.criterion=false"),
        ("student.quantised={}", "set student.quantised=null"),
    ],
)
def test_what_needs_the_anchors_space_is_refused_early(change: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        resolve("demo", ["student.dimension=extended", "gates.criterion=false", change])


def test_a_run_report_says_what_to_do_instead(run: Run, tmp_path: Path) -> None:
    from hetero.runs.sides import all_sides
    from hetero_devices.devices import HostDevice

    config = changed(run.recipe.export, ["formats=[onnx]", "precisions=[fp32]"])
    with pytest.raises(ModelError, match="'hetero upgrade evaluate'"):
        all_sides(run, export_run(run, tmp_path / "bundle", config), HostDevice())


def test_a_smaller_space_extends_nothing() -> None:
    generator, ids = np.random.default_rng(0), np.arange(20)

    def embeddings(dim: int, name: str) -> Embeddings:
        vectors = generator.normal(size=(20, dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embeddings(vectors, ids, ids, Space(name * 16, dim))

    with pytest.raises(RecipeError, match="does not extend"):
        fit_link(method_named("prefix"), embeddings(4, "a"), embeddings(4, "b"))
    unrelated = fit_link(Prefix(), embeddings(8, "a"), embeddings(4, "b"))
    assert unrelated.fitted.cosine < 0.7  # nothing was fitted, and the link says so


def test_a_demo_of_one_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["demo", *SMALL, *EXTENDED, "--run", str(tmp_path / "run")])
    assert isinstance(done.exception, ModelError)
    assert "'hetero upgrade evaluate'" in str(done.exception)
    assert not (tmp_path / "run" / "student").exists()
    assert not (tmp_path / "run" / "anchor").exists()
