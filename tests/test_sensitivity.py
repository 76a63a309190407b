"""The scan for sensitive layers, on a network of which every layer's error is known."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pytest

from hetero.recipes.recipe import MixedConfig
from hetero_devices.errors import BundleError, RecipeError
from hetero_export.layers import Layer, grouped, members
from hetero_export.sensitivity import LayerScore, Sensitivity, affordable, scan, score

Vectors = npt.NDArray[np.float32]

ANGLES = {"stem": 0.02, "body": 0.01, "wide": 0.2, "head": 0.1}
MACS = {"stem": 10, "body": 30, "wide": 50, "head": 10}
LAYERS = tuple(Layer(name, "Conv", MACS[name], (name,)) for name in ANGLES)


class Rotating:
    """Embeddings turned by the sum of the quantised layers' angles; counts how often it is asked."""

    def __init__(self) -> None:
        self.reference = np.tile(np.array([[1.0, 0.0]], np.float32), (3, 1))
        self.asked: list[set[str]] = []

    def __call__(self, keep_float: Collection[str]) -> Vectors:
        self.asked.append(set(keep_float))
        angle = np.sqrt(sum(a**2 for name, a in ANGLES.items() if name not in keep_float))
        turned: Vectors = np.tile(np.array([[np.cos(angle), np.sin(angle)]], np.float32), (3, 1))
        return turned


def scanned(**limits: float) -> Sensitivity:
    network = Rotating()
    return scan(LAYERS, network.reference, network, MixedConfig.model_validate({"max_macs": 1, **limits}))


def test_the_score_is_the_mean_cosine_distance() -> None:
    reference = np.array([[1, 0], [0, 2]], np.float32)
    assert score(reference, reference) == 0
    assert score(reference, np.array([[1, 0], [3, 0]], np.float32)) == pytest.approx(0.5)


def test_each_layer_is_scored_alone() -> None:
    found = scanned()
    for layer in found.layers:
        assert layer.distance == pytest.approx(1 - np.cos(ANGLES[layer.name]), rel=1e-3)
    assert found.distance_int8 == pytest.approx(1 - np.cos(np.sqrt(sum(a**2 for a in ANGLES.values()))))


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        (1.0, ()),
        (0.01, ("wide",)),
        (0.001, ("wide", "head")),
        (0.0001, ("wide", "head", "stem")),
        (1e-9, ("wide", "head", "stem", "body")),
    ],
)
def test_the_fewest_of_the_worst_that_meet_the_target_are_kept(target: float, kept: tuple[str, ...]) -> None:
    found = scanned(target=target)
    assert found.kept == kept
    assert found.distance <= target
    assert found.macs_share == pytest.approx(sum(MACS[name] for name in kept) / 100)


def test_limits_stop_before_the_target() -> None:
    assert scanned(target=1e-9, max_layers=1).kept == ("wide",)
    assert scanned(target=1e-9, max_macs=0.2).kept == ("head", "stem")  # wide is too large
    found = scanned(target=1e-9, max_macs=0)
    assert (found.kept, found.distance) == ((), found.distance_int8)


def test_it_asks_once_per_layer_and_a_few_times_more() -> None:
    network = Rotating()
    scan(LAYERS, network.reference, network, MixedConfig(target=1e-3, max_macs=1))
    assert len(network.asked) <= len(LAYERS) + 2 + 2


def test_the_larger_of_two_limits_holds() -> None:
    scores = [
        LayerScore("a", "Conv", 80, 0.3),
        LayerScore("b", "Conv", 15, 0.2),
        LayerScore("c", "Conv", 5, 0.1),
    ]
    assert affordable(scores, MixedConfig(max_macs=0.2)) == ["b", "c"]
    assert affordable(scores, MixedConfig(max_macs=1, max_layers=2)) == ["a", "b"]
    assert affordable(scores, MixedConfig(max_macs=1, max_layers=0)) == []


def test_a_scan_survives_json_and_shows_as_a_table() -> None:
    found = scanned(target=0.001)
    assert Sensitivity.from_json(found.to_json()) == found
    rows = found.table().splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| wide", "| head", "| stem", "| body"]
    assert [row.endswith("| float32 |") for row in rows[2:]] == [True, True, False, False]
    with pytest.raises(BundleError, match="sensitivity lacks the key"):
        Sensitivity.from_json({"kept": []})


def test_a_layer_takes_what_follows_it() -> None:
    groups = grouped(["pad", "conv", "relu", "conv", "add", "fc"], lambda op: op in ("conv", "fc"))
    assert groups == [["conv", "relu"], ["conv", "add"], ["fc"]]


def test_members_of_named_layers() -> None:
    layers = (Layer("a", "Conv", 1, ("a", "relu")), Layer("b", "Conv", 1, ("b",)))
    assert members(layers, ["a"]) == ["a", "relu"]
    with pytest.raises(RecipeError, match="no layer 'aa' to keep in float; the nearest is 'a'"):
        members(layers, ["aa"])
