"""Links against closed forms and double precision; their direction, their files, their export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from hetero.cli.link import _KINDS
from hetero.recipes.resolve import changed
from hetero.retrieval import RECALL_AT_1, evaluate
from hetero.tensors import load_tensors, save_tensors
from hetero.upgrades.links import METHODS, Link, fit_link, method_named
from hetero.upgrades.links.affine import Affine, reduced_rank, ridge
from hetero.upgrades.links.method import Dims
from hetero.upgrades.links.orthogonal import LambdaOrthogonal, orthogonality_gap, orthogonality_penalty
from hetero.upgrades.links.procrustes import procrustes
from hetero.upgrades.links.slerp import slerp
from hetero_devices.errors import DataError, ModelError, RecipeError, SpaceMismatch
from hetero_devices.space import Embeddings, Space

OLD, NEW, EXTRA = Space("0" * 16, 8), Space("1" * 16, 10), Space("2" * 16, 6)
Vectors = npt.NDArray[np.float64]
rng = np.random.default_rng(0)


def embeddings(vectors: Vectors, space: Space, labels: npt.NDArray[np.int64] | None = None) -> Embeddings:
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    labels = np.arange(len(unit)) % 7 if labels is None else labels
    return Embeddings(unit, np.arange(len(unit)), labels, space)


def three(count: int = 300, seed: int = 0) -> tuple[Embeddings, Embeddings, Embeddings]:
    """Old, new and side vectors of images of seven classes; the new ones hold all that the old ones do."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 7
    hidden = np.random.default_rng(9).normal(size=(7, 10))[labels] + 0.6 * generator.normal(size=(count, 10))
    mix = np.random.default_rng(7).normal(size=(10, 8))
    aside = np.random.default_rng(8).normal(size=(10, 6))
    return tuple(
        embeddings(v, s, labels) for v, s in ((hidden @ mix, OLD), (hidden, NEW), (hidden @ aside, EXTRA))
    )  # type: ignore[return-value]


def quick(kind: str) -> list[str]:
    return ["descent.steps=30"] if "descent" in METHODS[kind].model_fields else []


def fitted(kind: str, **options: object) -> Link:
    old, new, extra = three()
    sides = (new, old) if METHODS[kind].sides[0] == "query" else (old, new)
    companion = extra if kind == "fct" else None
    return fit_link(changed(method_named(kind), quick(kind)), *sides, companion=companion, **options)  # type: ignore[arg-type]


def test_procrustes_finds_a_rotation_exactly() -> None:
    x = torch.from_numpy(rng.normal(size=(50, 6)))
    rotation, _ = torch.linalg.qr(torch.from_numpy(rng.normal(size=(6, 6))))
    torch.testing.assert_close(procrustes(x, x @ rotation), rotation, atol=1e-12, rtol=0)


def test_procrustes_is_no_worse_than_any_other_rotation() -> None:
    x, y = (torch.from_numpy(rng.normal(size=(40, d))) for d in (5, 5))
    best = (x @ procrustes(x, y) - y).norm()
    for seed in range(200):
        other, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(seed)).double())
        assert (x @ other - y).norm() >= best


@pytest.mark.parametrize(("source", "target"), [(4, 7), (7, 4)])
def test_procrustes_between_dimensions_has_orthonormal_rows_or_columns(source: int, target: int) -> None:
    x, y = (torch.from_numpy(rng.normal(size=(30, d))) for d in (source, target))
    found = procrustes(x, y)
    gram = found @ found.T if source < target else found.T @ found
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_rotated_and_shifted_space_is_linked_exactly() -> None:
    """Unit vectors of a cap: rotating them is undone to float32 precision, and search is the same again."""
    old = embeddings(rng.normal(size=(80, 8)) + 1, OLD)
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    new = Embeddings((old.vectors @ rotation).astype(np.float32), old.ids, old.labels, Space("3" * 16, 8))
    link = fit_link(method_named("procrustes"), new, old, holdout=0)
    np.testing.assert_allclose(link(new).vectors, old.vectors, atol=2e-6)
    assert link.fitted.cosine == pytest.approx(1, abs=1e-6)
    assert evaluate(link(new), old).means == pytest.approx(evaluate(old, old).means)


def test_ridge_is_the_solution_of_the_augmented_least_squares() -> None:
    x, y = (torch.from_numpy(rng.normal(size=(30, d))) for d in (5, 3))
    penalty = 0.3
    rows = np.vstack([x.numpy(), np.sqrt(30 * penalty) * np.eye(5)])
    expected = np.linalg.lstsq(rows, np.vstack([y.numpy(), np.zeros((5, 3))]), rcond=None)[0]
    np.testing.assert_allclose(ridge(x, y, penalty).numpy(), expected, atol=1e-12)


def test_reduced_rank_reaches_the_bound_of_eckart_and_young() -> None:
    """No map of rank r loses less than least squares plus the discarded singular values of its fit."""
    x, y = (rng.normal(size=(60, d)) for d in (5, 4))
    penalty = 0.1
    rows, wanted = np.vstack([x, np.sqrt(60 * penalty) * np.eye(5)]), np.vstack([y, np.zeros((5, 4))])
    whole = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    least = ((rows @ whole - wanted) ** 2).sum()
    values = np.linalg.svd(rows @ whole, compute_uv=False)
    for rank in (1, 2, 3, 4):
        weight = ridge(torch.from_numpy(x), torch.from_numpy(y), penalty)
        narrow, wide = reduced_rank(torch.from_numpy(x), weight, penalty, rank)
        found = (narrow @ wide).numpy()
        assert np.linalg.matrix_rank(found) == rank
        assert ((rows @ found - wanted) ** 2).sum() == pytest.approx(least + (values[rank:] ** 2).sum())


def test_an_affine_link_is_regression_with_an_intercept() -> None:
    old, new, _ = three(60)
    link = fit_link(Affine(ridge=1e-9), new, old, holdout=0)
    rows = np.hstack([new.vectors, np.ones((60, 1))]).astype(np.float64)
    expected = rows @ np.linalg.lstsq(rows, old.vectors.astype(np.float64), rcond=None)[0]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(link(new).vectors, expected, atol=1e-5)


def test_a_rank_above_the_dimensions_is_refused() -> None:
    with pytest.raises(RecipeError, match="use at most 8"):
        fit_link(Affine(rank=9), *reversed(three()[:2]))


def test_the_gap_and_its_gate() -> None:
    weight = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])  # W W^T = diag(2, 4): gap sqrt(1 + 9)
    assert float(orthogonality_gap(weight)) == pytest.approx(10**0.5)
    assert float(orthogonality_gap(weight.T)) == pytest.approx(10**0.5)
    expected = 10**0.5 / (1 + np.exp(-2 * (10**0.5 - 3)))
    assert float(orthogonality_penalty(weight, 3.0, 2.0)) == pytest.approx(expected)


def test_lambda_orthogonal_lies_between_the_rotation_and_the_regression() -> None:
    """A threshold of zero keeps it orthogonal; without a penalty it ends at least squares."""
    old, new, _ = three()
    strict = {"threshold": 0.0, "penalty": 30.0, "contrast": 0.0, "descent": {"steps": 200, "rate": 3e-3}}
    free = {"penalty": 0.0, "contrast": 0.0, "descent": {"steps": 500, "rate": 0.05, "batch": 300}}
    tight = fit_link(LambdaOrthogonal.model_validate(strict), new, old, holdout=0)
    loose = fit_link(LambdaOrthogonal.model_validate(free), new, old, holdout=0)
    assert float(orthogonality_gap(tight.network.weight)) < 0.05  # type: ignore[arg-type]
    least = fit_link(Affine(ridge=1e-9), new, old, holdout=0)
    np.testing.assert_allclose(loose(new).vectors, least(new).vectors, atol=5e-3)
    assert float(orthogonality_gap(least.network.weight)) > 1  # type: ignore[arg-type]


def test_a_residual_network_fits_what_no_affine_map_does() -> None:
    source = rng.normal(size=(600, 4))
    bent = np.hstack([np.abs(source), source])  # |x| is beyond any affine map
    x, y = embeddings(source, Space("4" * 16, 4)), embeddings(bent, OLD)
    affine = fit_link(method_named("affine"), x, y)
    mlp = fit_link(changed(method_named("mlp"), ["descent.steps=400", "descent.rate=0.005"]), x, y)
    assert mlp.fitted.cosine > affine.fitted.cosine + 0.05


def test_side_information_brings_back_what_the_old_space_lost() -> None:
    """The old space holds half of the new one; the side vectors hold the other half."""
    hidden = rng.normal(size=(800, 10))
    new = embeddings(hidden, NEW)
    old = embeddings(np.hstack([hidden[:, :5], 0.1 * rng.normal(size=(800, 3))]), OLD)
    useful, useless = embeddings(hidden[:, 4:], EXTRA), embeddings(rng.normal(size=(800, 6)), EXTRA)
    method = changed(method_named("fct"), ["descent.steps=400", "hidden=64", "mixer=64"])
    cosines = [fit_link(method, old, new, companion=c).fitted.cosine for c in (useful, useless)]
    assert cosines[0] > cosines[1] + 0.1


def test_slerp_by_hand() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    half = slerp(a, b, 0.5)
    torch.testing.assert_close(half, torch.full((1, 2), 0.5**0.5))
    third = slerp(a, b, 1 / 3)
    torch.testing.assert_close(third, torch.tensor([[np.cos(np.pi / 6), np.sin(np.pi / 6)]]).float())
    torch.testing.assert_close(slerp(a, a, 0.3), a)


def test_slerp_chooses_its_share_on_the_pairs() -> None:
    """Where the new space says nothing, stay with the old query; where the old one does not, go over."""
    labels = np.arange(210) % 7
    clear = np.random.default_rng(3).normal(size=(7, 8))[labels] + 0.1 * rng.normal(size=(210, 8))
    noise = rng.normal(size=(210, 8))
    other = Space("5" * 16, 8)
    useless = fit_link(
        method_named("slerp"), embeddings(noise, other, labels), embeddings(clear, OLD, labels)
    )
    assert float(useless.network.share) == 0  # type: ignore[arg-type]
    given = fit_link(
        changed(method_named("slerp"), ["share=0.25"]),
        embeddings(clear, other, labels),
        embeddings(clear, OLD, labels),
    )
    assert float(given.network.share) == 0.25  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", METHODS)
def test_a_link_survives_its_file(kind: str, tmp_path: Path) -> None:
    link, (old, new, extra) = fitted(kind), three(20, seed=1)
    link.save(tmp_path / "a.link")
    again = Link.load(tmp_path / "a.link")
    assert (again.method, again.side, again.source, again.target) == (
        link.method, link.side, link.source, link.target,
    )  # fmt: skip
    assert (again.fitted, again.digest) == (link.fitted, link.digest)
    query = link.side == "query"
    inputs = (new if query else old, {"fct": extra, "slerp": old}.get(kind))
    np.testing.assert_array_equal(again(*inputs).vectors, link(*inputs).vectors)
    assert again(*inputs).space == (OLD if query else NEW)
    again(*inputs).check()


@pytest.mark.parametrize("kind", METHODS)
def test_the_same_pairs_and_seed_give_the_same_link(kind: str) -> None:
    assert fitted(kind).digest == fitted(kind).digest
    assert fitted(kind).digest != fitted(kind, seed=1).digest


def test_the_wrong_way_round_names_both_spaces() -> None:
    link, (old, new, extra) = fitted("procrustes"), three()
    with pytest.raises(SpaceMismatch, match=f"{NEW.id}.*{OLD.id}.*wrong way round"):
        link(old)
    with pytest.raises(SpaceMismatch, match=f"takes embeddings of space {NEW.id}.*in space {EXTRA.id}"):
        link(extra)
    with pytest.raises(SpaceMismatch, match="converts the query side, not the gallery side"):
        link(new, side="gallery")
    with pytest.raises(DataError, match="takes no companion"):
        link(new, old)


def test_companions_are_checked() -> None:
    link, (old, new, extra) = fitted("fct"), three()
    with pytest.raises(DataError, match="also needs the side information"):
        link(old)
    with pytest.raises(SpaceMismatch, match=f"in space {EXTRA.id}.*in space {NEW.id}"):
        link(old, new)
    with pytest.raises(DataError, match="not of the same images"):
        link(old, extra.select(np.arange(len(old))[::-1].copy()))
    with pytest.raises(SpaceMismatch):
        fit_link(method_named("slerp"), new, old, companion=extra)


def test_pairs_that_cannot_be_fitted_are_refused() -> None:
    old, new, extra = three()
    with pytest.raises(SpaceMismatch, match="nothing to link"):
        fit_link(method_named("procrustes"), old, old)
    with pytest.raises(DataError, match="not of the same images"):
        fit_link(method_named("procrustes"), new, old.select(np.arange(10)))
    with pytest.raises(DataError, match="too few"):
        fit_link(method_named("procrustes"), new.select(np.arange(1)), old.select(np.arange(1)))
    with pytest.raises(DataError, match="converts the gallery side"):
        fit_link(method_named("fct"), old, new, companion=extra, side="query")
    with pytest.raises(DataError, match="needs the side information"):
        fit_link(method_named("fct"), old, new)
    broken = old.vectors.copy()
    broken[3] = np.nan
    with pytest.raises(DataError, match="NaN"):
        fit_link(method_named("affine"), new, Embeddings(broken, old.ids, old.labels, OLD))
    with pytest.raises(RecipeError, match="nearest is 'procrustes'"):
        method_named("procrustus")


def test_files_that_are_no_links(tmp_path: Path) -> None:
    link, path = fitted("affine"), tmp_path / "a.link"
    with pytest.raises(ModelError, match="no link at"):
        Link.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="cannot read"):
        Link.load(path)
    save_tensors(path, {"weight": torch.zeros(2)})
    with pytest.raises(ModelError, match="is not a link"):
        Link.load(path)
    link.save(path)
    tensors, metadata = load_tensors(path)
    save_tensors(path, {**tensors, "bias": tensors["bias"] + 1}, metadata)
    with pytest.raises(ModelError, match="damaged"):
        Link.load(path)
    for key, value in (("side", "both"), ("weights_sha256", 3), ("method", {"kind": "mlp"}), ("more", 1)):
        fields = {**json.loads(metadata["hetero.link"]), key: value}
        save_tensors(path, tensors, {"hetero.link": json.dumps(fields)})
        with pytest.raises(ModelError, match="is not a link of this version"):
            Link.load(path)


def test_a_link_that_maps_to_nothing_is_refused() -> None:
    link, (_, new, _) = fitted("affine"), three()
    broken = Link(
        link.method, link.side, link.source, link.target, None, link.method.build(Dims(10, 8)), link.fitted
    )
    with torch.no_grad():
        for parameter in broken.network.parameters():
            parameter.zero_()
    with pytest.raises(DataError, match="no direction"):
        broken(new)


def test_the_command_line_knows_every_kind() -> None:
    assert tuple(METHODS) == _KINDS


# Command line


def hetero(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hetero", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_fit_and_apply(tmp_path: Path) -> None:
    old, new, _ = three()
    old.save(tmp_path / "old" / "train")
    new.save(tmp_path / "new")
    link = tmp_path / "phones.link"
    done = hetero(
        "upgrade", "link", "fit", tmp_path / "old", tmp_path / "new", "--kind", "affine", "rank=4",
        "--side", "query", "--source", "old", "-o", link, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["side"], said["source"]["id"], said["target"]["id"]) == ("query", OLD.id, NEW.id)
    expected = fit_link(Affine(rank=4), old, new, side="query")
    assert said["digest"] == expected.digest
    done = hetero(
        "upgrade", "link", "apply", link, tmp_path / "old" / "train", "-o", tmp_path / "out", "--json"
    )
    assert done.returncode == 0, done.stderr
    converted = Embeddings.load(tmp_path / "out")
    np.testing.assert_array_equal(converted.vectors, expected(old).vectors)
    assert evaluate(converted, new).means[RECALL_AT_1] > 0.5
    refused = hetero("upgrade", "link", "apply", link, tmp_path / "new", "-o", tmp_path / "wrong")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: the affine link from space")
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "wrong").exists()
