"""The compatibility matrix and the verdicts drawn from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from hetero.cli.matrix import command
from hetero.retrieval import (
    MAP,
    RECALL_AT_1,
    Cell,
    Matrix,
    compatibility_criterion,
    compatibility_matrix,
    compatibility_tax,
    cross_evaluate,
    evaluate,
    retention,
    retention_interval,
    update_gain,
)
from hetero_devices.errors import DataError, HeteroError, SpaceMismatch
from hetero_devices.space import Embeddings, Space

ANCHOR, ALONE = "a" * 16, "b" * 16
CLASSES, DIM = 40, 24

Images = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]
Models = dict[str, tuple[Embeddings, Embeddings]]


def images(count: int, first_id: int) -> Images:
    """Latent vectors of images, with ids and labels."""
    generator = np.random.default_rng(first_id)
    centres = np.random.default_rng(0).standard_normal((CLASSES, DIM))
    labels = np.arange(count) % CLASSES
    return (
        centres[labels] + 0.9 * generator.standard_normal((count, DIM)),
        first_id + np.arange(count),
        labels,
    )


def encode(images: Images, seed: int, space: str = ANCHOR, noise: float = 0.0, dim: int = DIM) -> Embeddings:
    """A model: the anchor is the identity, a student adds noise, a model of another space turns the axes."""
    latent, ids, labels = images
    generator = np.random.default_rng(seed)
    turn = (
        np.eye(DIM)
        if space == ANCHOR
        else np.linalg.qr(np.random.default_rng(7).standard_normal((DIM, DIM)))[0]
    )
    vectors = (latent @ turn + noise * generator.standard_normal(latent.shape))[:, :dim].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Embeddings(vectors, ids.astype(np.int64), labels.astype(np.int64), Space(space, dim))


@pytest.fixture(scope="module")
def models() -> Models:
    queries, gallery = images(600, 100_000), images(400, 0)

    def both(space: str = ANCHOR, noise: float = 0.0, dim: int = DIM) -> tuple[Embeddings, Embeddings]:
        return encode(queries, 1, space, noise, dim), encode(gallery, 2, space, noise, dim)

    return {
        "anchor": both(),
        "student": both(noise=0.5),
        "alone": both(noise=1.2, space=ALONE),
        "narrow": both(noise=0.8, space=ALONE, dim=8),
    }


def sides(models: Models, *names: str) -> tuple[dict[str, Embeddings], dict[str, Embeddings]]:
    return {n: models[n][0] for n in names}, {n: models[n][1] for n in names}


def cell_of(matrix: Matrix, query: str, gallery: str) -> Cell:
    cell = matrix.cell(query, gallery)
    assert cell is not None
    return cell


def test_cells_are_the_evaluations_of_their_pair_query_first(models: Models) -> None:
    queries, galleries = sides(models, "anchor", "student")
    matrix = compatibility_matrix(queries, galleries, MAP)
    for q in queries:
        for g in galleries:
            cell = cell_of(matrix, q, g)
            assert cell.estimate.value == pytest.approx(evaluate(queries[q], galleries[g]).means[MAP])
            assert cell.estimate.low < cell.estimate.value < cell.estimate.high
            assert not cell.across_spaces
    assert matrix.cell("student", "anchor") != matrix.cell("anchor", "student")
    assert (
        cell_of(matrix, "anchor", "anchor").estimate.value
        > cell_of(matrix, "student", "anchor").estimate.value
    )


def test_models_of_different_spaces_are_refused_unless_asked_for_and_then_marked(models: Models) -> None:
    queries, galleries = sides(models, "anchor", "alone")
    with pytest.raises(
        SpaceMismatch, match=f"query model 'anchor' is in space {ANCHOR}.*'alone' is in space {ALONE}"
    ):
        compatibility_matrix(queries, galleries)
    matrix = compatibility_matrix(queries, galleries, across_spaces=True)
    marked = [[cell_of(matrix, q, g).across_spaces for g in galleries] for q in queries]
    assert marked == [[False, True], [True, False]]
    assert cell_of(matrix, "alone", "anchor").estimate.value < 0.1
    assert cell_of(matrix, "alone", "alone").estimate.value > 0.3


def test_cells_of_different_dimension_are_absent(models: Models) -> None:
    queries, galleries = sides(models, "anchor", "narrow")
    cross = cross_evaluate(queries, galleries, across_spaces=True)
    matrix = cross.matrix(RECALL_AT_1)
    assert matrix.cell("anchor", "narrow") is None
    assert matrix.cell("narrow", "narrow") is not None
    with pytest.raises(DataError, match="'anchor' was not compared with the gallery of 'narrow'"):
        cross["anchor", "narrow"]


def test_json_round_trip(models: Models) -> None:
    matrix = compatibility_matrix(*sides(models, "anchor", "narrow"), across_spaces=True)
    text = json.dumps(matrix.to_json())
    assert Matrix.from_json(json.loads(text)) == matrix
    with pytest.raises(HeteroError, match="matrix is not understood"):
        Matrix.from_json({"metric": MAP})


def test_class_intervals_are_wider_where_classes_differ(models: Models) -> None:
    cross = cross_evaluate(*sides(models, "student"))
    by_query, by_class = (
        cell_of(cross.matrix(by_class=flag), "student", "student").estimate for flag in (False, True)
    )
    assert by_class.value == by_query.value
    assert by_class.high - by_class.low > by_query.high - by_query.low


def test_models_must_embed_the_same_images(models: Models) -> None:
    queries, galleries = sides(models, "anchor", "student")
    fewer = {**queries, "student": queries["student"].select(np.arange(10))}
    with pytest.raises(DataError, match="query models 'anchor' and 'student' embed different images"):
        cross_evaluate(fewer, galleries)
    with pytest.raises(DataError, match="no gallery models"):
        cross_evaluate(queries, {})
    with pytest.raises(DataError, match=r"no query model 'nobody'.*anchor, student"):
        compatibility_matrix(queries, galleries).cell("nobody", "anchor")


def test_criterion_holds_for_a_student_in_the_space_and_not_the_other_way_round(models: Models) -> None:
    queries, galleries = sides(models, "anchor", "student", "alone")
    cross = cross_evaluate(queries, galleries, across_spaces=True)
    asymmetric = cross["student", "anchor"].per_query(RECALL_AT_1)
    baseline = cross["alone", "alone"].per_query(RECALL_AT_1)
    criterion = compatibility_criterion(asymmetric, baseline)
    assert criterion.holds
    assert criterion.comparison.difference.low > 0
    assert criterion.sentence.startswith("The compatibility criterion holds: Recall@1 is")
    reverse = compatibility_criterion(baseline, asymmetric)
    assert not reverse.holds
    assert "does not hold" in reverse.sentence
    assert not compatibility_criterion(asymmetric, asymmetric).holds


def test_retention_is_the_share_of_the_paragon(models: Models) -> None:
    cross = cross_evaluate(*sides(models, "anchor", "student"))
    asymmetric, paragon = (cross[q, "anchor"].per_query(MAP) for q in ("student", "anchor"))
    estimate = retention_interval(asymmetric, paragon)
    assert estimate.value == retention(asymmetric=asymmetric.mean, paragon=paragon.mean)
    assert estimate.low < estimate.value < estimate.high < 1
    perfect = retention_interval(paragon, paragon)
    assert (perfect.low, perfect.value, perfect.high) == (1, 1, 1)
    with pytest.raises(DataError, match="paragon scores 0"):
        retention(asymmetric=0.1, paragon=0.0)


def test_update_gain_and_tax_reproduce_the_published_openbct_table() -> None:
    """ImageNet top-1: old/old 39.5, BCT (normalised head) 46.8, L2 13.0, paragon 66.3, BCT self 55.6."""
    assert update_gain(new_old=46.8, old_old=39.5, paragon=66.3) == pytest.approx(0.272, abs=5e-4)
    assert update_gain(new_old=13.0, old_old=39.5, paragon=66.3) == pytest.approx(-0.99, abs=5e-3)
    assert compatibility_tax(paragon=66.3, new_new=55.6) == pytest.approx(10.7)
    with pytest.raises(DataError, match="does not beat"):
        update_gain(new_old=0.5, old_old=0.6, paragon=0.6)


def test_the_command_shows_any_metric_and_sums_up_a_series(models: Models, tmp_path: Path) -> None:
    arguments = []
    for name in ("student", "anchor"):
        for side, embeddings in zip(("query", "gallery"), models[name], strict=True):
            embeddings.save(tmp_path / name / side)
            arguments += [f"--{side}", f"{name}={tmp_path / name / side}"]
    done = CliRunner().invoke(command, [*arguments, "--metric", "ndcg@20", "--json"], catch_exceptions=False)
    fields = json.loads(done.stdout)
    matrix = Matrix.from_json(fields)
    assert matrix.metric == "ndcg@20"
    expected = evaluate(models["anchor"][0], models["student"][1]).per_query("ndcg@20").mean
    assert cell_of(matrix, "anchor", "student").estimate.value == pytest.approx(expected)
    assert fields["average_compatibility"] == 1  # the anchor searches the student's gallery better than it
    assert fields["average_accuracy"] == pytest.approx(matrix.scores()[np.tril_indices(2)].mean())
    shown = CliRunner().invoke(command, [*arguments, "--metric", "mrr"], catch_exceptions=False).stdout
    assert "MRR" in shown
    assert "average compatibility: 1.0000" in shown
    with pytest.raises(DataError, match="no metric 'recal@1'"):
        CliRunner().invoke(command, [*arguments, "--metric", "recal@1"], catch_exceptions=False)
    one = CliRunner().invoke(command, [*arguments[:4], "--json"], catch_exceptions=False)
    assert "average_accuracy" not in json.loads(one.stdout)


def test_absent_cells_have_no_score(models: Models) -> None:
    matrix = cross_evaluate(*sides(models, "anchor", "narrow"), across_spaces=True).matrix()
    assert np.isnan(matrix.scores()).tolist() == [[False, True], [True, False]]
