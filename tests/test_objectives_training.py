"""Students of other dimensions, live and cached anchors, and objectives with state, inside a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hetero.models import store
from hetero.models.build import build, preset
from hetero.models.deploy import Deploy
from hetero.objectives.contrastive import InfoNceConfig
from hetero.objectives.terms import Given, Objective
from hetero.recipes.resolve import resolve
from hetero.retrieval import evaluate
from hetero.runs import Run
from hetero.training.batches import Batches
from hetero.training.checkpoint import load_checkpoint, save_checkpoint
from hetero.training.optimizer import FitConfig, optimizer_of
from hetero.training.views import CachedTargets, LiveTargets
from hetero_devices.errors import DataError, RecipeError, SpaceMismatch
from hetero_devices.space import Embeddings, Preprocessing, Space, prefix, prefix_space
from tests.small import small

SMALL = small("residual-s")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of six random 16-pixel images."""
    path = tmp_path_factory.mktemp("data") / "toy.npz"
    images = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.repeat(np.arange(8), 6))
    return path


@pytest.fixture(scope="module")
def anchor(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained anchor of 16 dimensions."""
    run = Run.open(tmp_path_factory.mktemp("run"), resolve("demo", [*SMALL, f"data.source={data}"]))
    assert run.anchor.space.dim == 16
    return run.folder / "anchor"


def run_of(folder: Path, data: Path, anchor: Path, *changes: str) -> Run:
    overrides = [*SMALL, f"data.source={data}", f"anchor.source={anchor}", *changes]
    return Run.open(folder, resolve("demo", overrides))


def test_a_projection_is_part_of_the_deployed_student(data: Path, anchor: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, data, anchor, "student.dimension=projection", "student.network.dim=8")
    assert run.student.space == run.anchor.space
    assert run.student.config.model_dump()["project"] == 16
    loaded = store.load(tmp_path / "student")
    assert loaded.encoder.encode(run.test.query.images[:2]).shape == (2, 16)
    assert run.student.cost.parameters == run.alone.cost.parameters  # the control has the same network


def test_a_prefix_student_lives_in_a_space_of_its_own(data: Path, anchor: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, data, anchor, "student.dimension=prefix", "student.network.dim=8")
    whole = run.whole_anchor.embed("test", run.test.gallery)
    query = Embeddings(
        run.student.encoder.encode(run.test.query.images),
        run.test.query.ids,
        run.test.query.labels,
        run.student.space,
    )
    with pytest.raises(SpaceMismatch):
        evaluate(query, whole)
    cut = prefix(whole, 8)
    evaluate(query, cut)
    assert cut.space == run.student.space == run.anchor.space
    np.testing.assert_allclose(cut.vectors, run.anchor.embed("test", run.test.gallery).vectors, atol=1e-6)
    assert run.anchor.head is not None
    assert run.anchor.head.shape[1] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ("student.network.dim=8",),
            "set student.network.dim=16, or student.dimension to projection, prefix or extended",
        ),
        (("student.dimension=prefix",), "is no prefix of the anchor's 16 dimensions"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(
    data: Path, anchor: Path, tmp_path: Path, changes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        _ = run_of(tmp_path, data, anchor, *changes).student


def test_a_prefix_is_the_first_dimensions_of_unit_length() -> None:
    vectors = np.array([[0.6, 0.0, 0.8], [0.0, 0.6, -0.8]], np.float32)
    whole = Embeddings(vectors, np.arange(2), np.arange(2), Space("0" * 16, 3))
    np.testing.assert_allclose(prefix(whole, 2).vectors, [[1, 0], [0, 1]], atol=1e-6)
    assert prefix(whole, 3) is whole
    assert prefix(whole, 2).space.id not in (whole.space.id, prefix_space(whole.space, 1).id)
    with pytest.raises(DataError, match="zero in its first 1 dimensions"):
        prefix(whole, 1)
    for dim in (0, 4):
        with pytest.raises(DataError, match="cannot be cut"):
            prefix_space(whole.space, dim)


def test_a_live_anchor_embeds_what_the_student_sees(data: Path, anchor: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, data, anchor, "student.views=0")
    source = run.targets(run.anchor)
    assert isinstance(source, LiveTargets)
    batch = Batches(run.items, run.recipe.data.augment, 8, seed=0, targets=source)(1)
    seen = batch.pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy()
    assert run.anchor.encoder is not None
    expected = run.anchor.encoder.encode(seen)
    np.testing.assert_allclose(batch.supervision.anchor.numpy(), expected, atol=1e-6)


def test_live_and_cached_anchors_agree_on_the_images_themselves(
    data: Path, anchor: Path, tmp_path: Path
) -> None:
    live = run_of(tmp_path / "live", data, anchor, "student.views=0")
    cached = run_of(tmp_path / "cached", data, anchor)
    assert isinstance(cached.targets(cached.anchor), CachedTargets)
    sources = [run.targets(run.anchor).reference() for run in (live, cached)]
    torch.testing.assert_close(*sources)
    images = cached.splits.train
    np.testing.assert_allclose(sources[0].numpy(), cached.anchor.embed("train", images).vectors, atol=1e-6)


def test_batches_name_their_items(data: Path, anchor: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, data, anchor)
    batch = Batches(run.items, run.recipe.data.augment, 8, seed=0)(0)
    assert batch.supervision.items is not None
    items = batch.supervision.items.numpy()
    assert torch.equal(batch.supervision.labels, run.items.labels(items))


@pytest.mark.parametrize("term", ["info_nce", "lce", "mixed", "raw_mse"])
def test_a_term_with_state_trains_a_student(data: Path, anchor: Path, tmp_path: Path, term: str) -> None:
    first, second = (
        run_of(tmp_path / name, data, anchor, f"student.objective=[{{term: {term}}}]") for name in "ab"
    )
    digests = [store.weights_digest(run.student.deploy.network) for run in (first, second)]
    assert digests[0] == digests[1]


def test_a_checkpoint_carries_the_queue(tmp_path: Path) -> None:
    deploy = Deploy(build(preset("elastic-xs")), Preprocessing(size=16))
    objective = Objective((InfoNceConfig(queue=6),), Given(3, 4, True, None))
    optimizer = optimizer_of([deploy], FitConfig())
    for value in objective.state_dict().values():
        value.add_(1)
    save_checkpoint(tmp_path / "c.safetensors", 5, {"objective": objective}, optimizer)
    fresh = Objective((InfoNceConfig(queue=6),), Given(3, 4, True, None))
    assert load_checkpoint(tmp_path / "c.safetensors", {"objective": fresh}, optimizer) == 5
    for name, value in objective.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])
