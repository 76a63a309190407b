"""`hetero upgrade` from plan to rollback, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hetero import data
from hetero.cli.main import cli
from hetero.upgrades.stores import open_store
from hetero_devices.errors import DataError, HeteroError
from hetero_devices.space import Embeddings, Space

OLD, NEW = Space("a0" * 8, 12), Space("b1" * 8, 16)


def say(*words: object) -> str:
    """Output of a command that works; its error otherwise."""
    done = CliRunner().invoke(cli, ["upgrade", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def usage(*words: object) -> str:
    done = CliRunner().invoke(cli, ["upgrade", *map(str, words)])
    assert done.exit_code == 2
    return done.output


@pytest.fixture
def sides(tmp_path: Path) -> Path:
    labels = np.arange(80, dtype=np.int64) % 8
    for name, space, noise in (("old", OLD, 0.9), ("new", NEW, 0.3)):
        means = np.random.default_rng(space.dim).normal(size=(8, space.dim))
        for side, count, first in (("gallery", 80, 0), ("queries", 40, 500)):
            drawn = np.random.default_rng(first).normal(size=(count, space.dim))
            vectors = means[labels[:count]] + noise * drawn
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            ids = first + np.arange(count, dtype=np.int64)
            embeddings = Embeddings(vectors.astype(np.float32), ids, labels[:count], space)
            embeddings.save(tmp_path / name / side)
    return tmp_path


def plan(sides: Path, *more: object) -> str:
    old, new = sides / "old", sides / "new"
    measured = ("--new-gallery", new / "gallery", "--new-queries", new / "queries")
    queries = ("--old-queries", old / "queries", "--points", 5)
    return say("plan", old / "gallery", "-o", sides / "plan", *measured, *queries, *more)


@pytest.mark.parametrize("address", ["store", "store.db"])
def test_from_plan_to_rollback(sides: Path, address: str) -> None:
    said = plan(sides, "--rate", 10, "--price", 3600)
    assert "Backfill curves, mAP in percent" in said
    assert "80 images, 0.00 hours at 10.0 images a second, 8.00 in money" in said
    store = sides / address
    assert "live as v1" in say("store", sides / "old" / "gallery", store)
    apply = ("apply", sides / "plan", "--store", store, "--embeddings", sides / "new" / "gallery")
    assert "complete, not live" in say(*apply, "--hold")
    assert json.loads(say("status", sides / "plan", "--json"))["phase"] == "complete"
    assert "v1 -> v2, live" in say("resume", sides / "plan")
    assert "80 of 80 images re-embedded (100.0 %)" in say("status", sides / "plan")
    assert "rolled back: the old version is live" in say("rollback", sides / "plan", "--drop")
    opened = open_store(str(store))
    assert (opened.live(), list(opened.versions())) == ("v1", ["v1"])
    opened.close()


def test_the_plan_as_json(sides: Path) -> None:
    found = json.loads(plan(sides, "--json", "--order", "class-mean", "--target", 0.5))
    assert found["order"] == "class-mean"
    assert found["merge"] == "quantile"
    assert found["sample"] == {"gallery": 80, "queries": 40}
    assert found == json.loads((sides / "plan" / "plan.json").read_text())
    (curve,) = found["curves"]
    assert curve["shares"] == [0, 0.25, 0.5, 0.75, 1]
    assert curve["target"] == 0.5
    assert curve["area"]["value"] == pytest.approx(
        np.trapezoid([p["value"] for p in curve["points"]], curve["shares"])
    )


def test_what_is_missing_is_said(sides: Path) -> None:
    old, new = sides / "old", sides / "new"
    assert "both --new-gallery and --new-queries" in usage(
        "plan", old / "gallery", "-o", sides / "p", "--new-gallery", new / "gallery"
    )
    assert "say what the new model is" in usage("plan", old / "gallery", "-o", sides / "p")
    plan(sides)
    assert "give --embeddings, or --model and --images" in usage(
        "apply", sides / "plan", "--store", sides / "s"
    )
    with pytest.raises(DataError, match="there is no gallery store"):
        say("apply", sides / "plan", "--store", sides / "s", "--embeddings", new / "gallery")
    with pytest.raises(DataError, match="there is no plan"):
        say("apply", sides / "nothing", "--store", sides / "s", "--embeddings", new / "gallery")
    with pytest.raises(DataError, match="has not been applied"):
        say("rollback", sides / "plan")
    assert not (sides / "s").exists()


@pytest.mark.parametrize("damage", ["plan.json", "order.npy"])
def test_a_damaged_plan_is_one_line(sides: Path, damage: str) -> None:
    plan(sides)
    (sides / "plan" / damage).write_bytes(b"{")
    with pytest.raises(HeteroError) as caught:
        say("apply", sides / "plan", "--store", sides / "s", "--embeddings", sides / "new" / "gallery")
    assert "\n" not in str(caught.value)


def test_images_are_embedded_by_the_new_model(
    tmp_path: Path, tiny_bundle: Path, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real ONNX model and real image files: the rate is measured, the migration embeds batch by batch."""
    monkeypatch.setenv("HETERO_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "photos.npz"
    np.savez(source, images=net.images(60), labels=np.arange(60) % 6)
    images = data.load(source, size=8, seed=3).test
    vectors = np.random.default_rng(0).normal(size=(len(images), 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    Embeddings(vectors, images.ids, images.labels, OLD).save(tmp_path / "old")
    planned = ("plan", tmp_path / "old", "-o", tmp_path / "plan", "--model", tiny_bundle)
    assert "images a second" in say(*planned, "--images", source)
    say("store", tmp_path / "old", tmp_path / "store")
    where = ("--store", tmp_path / "store", "--images", source)
    apply = ("apply", tmp_path / "plan", *where, "--model", tiny_bundle, "--batch", 7)
    with pytest.raises(DataError, match="no new vector for the gallery's id"):
        say(*apply, "--seed", 4)  # another seed makes other classes test classes
    assert "v1 -> v2, live" in say(*apply, "--seed", 3)
    opened = open_store(str(tmp_path / "store"))
    back = opened.read("v2", images.ids)
    assert back.vectors == pytest.approx(net.embed(images.images), abs=1e-5)
    assert back.labels.tolist() == images.labels.tolist()
    (tiny_bundle / "manifest.json").write_text((tiny_bundle / "manifest.json").read_text() + " ")
    say("rollback", tmp_path / "plan")
    with pytest.raises(DataError, match="has changed since the migration began"):
        say("resume", tmp_path / "plan")
