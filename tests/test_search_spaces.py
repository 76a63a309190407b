"""The shuffle space in the supernet, lists of networks, and how a recipe names a space."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hetero.models.build import build, preset
from hetero.models.elastic import ElasticConfig, Stage
from hetero.models.foreign.timm_models import TimmConfig
from hetero.models.shuffle import ShuffleConfig
from hetero.recipes.recipe import Recipe
from hetero.recipes.resolve import resolve
from hetero.search.cost import BudgetConfig, Pricing
from hetero.search.listed import ListedSpace, ListedSpaceConfig
from hetero.search.paths import Paths
from hetero.search.result import SearchResult
from hetero.search.searching import open_search
from hetero.search.shuffle_space import ShuffleSpace, ShuffleSpaceConfig, ShuffleStageSpace
from hetero.search.space import Architecture, SearchSpace
from hetero.search.spaces import open_space
from hetero.search.supernet import SuperNet
from hetero.tensors import load_tensors
from hetero_devices.errors import RecipeError
from hetero_devices.files import read_json

SMALL = ShuffleSpaceConfig(
    stem=(8, 16),
    stages=(
        ShuffleStageSpace(width=16, depth=(1, 2), hidden=(1.0, 2.0), stride=1),
        ShuffleStageSpace(width=32, depth=(1, 2, 3), hidden=(0.5, 1.0), operators=("shuffle3", "xception")),
    ),
    head=(16, 32),
    dim=8,
)
TIMM = pytest.param("timm", marks=pytest.mark.skipif(find_spec("timm") is None, reason="pip install timm"))


@pytest.fixture(scope="module")
def space() -> ShuffleSpace:
    return ShuffleSpace(SMALL)


def drawn(space: SearchSpace, count: int, floor: float = 0.0) -> list[Architecture]:
    generator = np.random.default_rng(0)
    return [space.sample(generator, floor) for _ in range(count)]


def test_a_candidate_is_described_and_found_again(space: ShuffleSpace) -> None:
    for architecture in drawn(space, 20):
        assert space.parse(space.describe(architecture)) == architecture
    assert len({space.config(a).model_dump_json() for a in drawn(space, 50)}) == len(set(drawn(space, 50)))


def test_the_largest_has_every_last_option(space: ShuffleSpace) -> None:
    config = space.config(space.largest())
    assert [stage.operators for stage in config.stages] == [("xception",) * 2, ("xception",) * 3]
    assert (config.stem, config.head, config.activation, config.dim) == (16, 32, "hswish", 8)
    with pytest.raises(ValidationError, match=r"stages\.0\.hidden must rise"):
        ShuffleSpaceConfig(stages=(ShuffleStageSpace(width=16, hidden=(2.0, 1.0)),))


def test_a_floor_leaves_every_operator(space: ShuffleSpace) -> None:
    """Progressive shrinking is about size; no operator is a smaller part of another."""
    configs = [space.config(each) for each in drawn(space, 40, floor=1.0)]
    assert {config.stem for config in configs} == {16}
    assert {config.stages[0].operators[0] for config in configs} == {
        "shuffle3",
        "shuffle5",
        "shuffle7",
        "xception",
    }


@pytest.mark.parametrize("project", [None, 12])
def test_the_supernet_computes_what_the_candidate_with_its_weights_computes(project: int | None) -> None:
    torch.manual_seed(0)
    space = ShuffleSpace(SMALL.model_copy(update={"project": project}))
    supernet, images = SuperNet(space, Paths(rule="single")), torch.randn(4, 3, 16, 16)
    for architecture in [space.smallest(), *space.cover(), *drawn(space, 8)]:
        network = supernet.extract(architecture).train()
        torch.testing.assert_close(supernet.path(images, architecture), network(images), rtol=0, atol=0)


def test_operators_have_weights_of_their_own_and_share_the_shortcut(space: ShuffleSpace) -> None:
    supernet = SuperNet(space, Paths(rule="single"))
    parts = {key.split("/")[2] for key in supernet.shared if key.startswith("stage0/0/")}
    assert parts == {"shuffle3", "shuffle5", "shuffle7", "xception", "shortcut"}
    first, second = space.cover()[:2]
    before = {key: value.detach().clone() for key, value in supernet.shared.items()}
    supernet.path(torch.randn(4, 3, 16, 16), first).sum().backward()  # type: ignore[no-untyped-call]
    changed = {key for key in before if supernet.shared[key].grad is not None}
    ours, theirs = ({n.replace(".", "/") for n in names(space, each)} for each in (first, second))
    assert changed == ours
    assert {"stem/0/weight", "stage0/0/shortcut/0/0/weight", "embed/weight"} <= ours & theirs
    assert not any(key.startswith("stage0/0/shuffle3") for key in theirs)


def names(space: ShuffleSpace, architecture: Architecture) -> Iterator[str]:
    for name, _ in build(space.config(architecture)).named_parameters():
        yield space.shared_name(architecture, name)


def test_every_shared_parameter_is_at_its_full_size(space: ShuffleSpace) -> None:
    """No candidate has a parameter that is larger, or unknown."""
    shared = SuperNet(space, Paths()).shared
    for architecture in drawn(space, 30):
        for name, parameter in build(space.config(architecture)).named_parameters():
            whole = shared[space.shared_name(architecture, name).replace(".", "/")]
            assert all(a <= b for a, b in zip(parameter.shape, whole.shape, strict=True))


SETTINGS = (
    "anchor.network=residual-s",
    "anchor.fit.precision=fp32",
    *(f"{part}.fit.{key}" for part in ("anchor", "student", "search") for key in ("steps=4", "batch=16")),
    "student.views=1",
    "search.settle=32",
    "search.queries=40",
    "search.algorithm={population: 3, generations: 2, parents: 2}",
)


def recipe(*changes: str) -> Recipe:
    return resolve("demo", [*SETTINGS, *changes])


def test_a_space_is_chosen_by_its_kind_and_then_changed() -> None:
    for change in ("search.space.kind=shuffle", "search.space={kind: shuffle}"):
        assert resolve("demo", [change]).search.space == ShuffleSpaceConfig()
    found = resolve("demo", ["search.space.kind=shuffle", "search.space.stem=[8]"]).search.space
    assert isinstance(found, ShuffleSpaceConfig)
    assert found.stem == (8,)
    same = resolve("demo", ["search.space.head=[64]", "search.space.kind=elastic"]).search.space
    assert open_space(same, 32).config(open_space(same, 32).largest()).output_dim == 32
    assert same.model_dump()["head"] == (64,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["search.space.kind=listed"], r"'search\.space\.networks': Field required"),
        (["search.space.kind=nasnet"], "'nasnet'.*'elastic', 'shuffle', 'listed'"),
        (["search.space={kind: shuffle, stem: [16, 8]}"], "stem must rise"),
        (["search.space={kind: shuffle, stm: [16]}"], r"no key 'search\.space\.stm'"),
        (["search.space={kind: listed, networks: [elastic-q]}"], "nearest is 'elastic-s'"),
        (["search.space={kind: listed, networks: [{kind: elastic, stem: x}]}"], r"networks\.0\.stem'"),
        (["search.space=3"], r"'search\.space'"),
    ],
)
def test_mistakes_in_a_space_are_one_line(changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        resolve("demo", changes)
    assert "\n" not in str(caught.value)


def test_a_file_may_name_another_kind_of_space(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("search: {space: {kind: shuffle, head: [64, 96]}}\n")
    space = resolve(str(path), ["search.space.stem=[16]"]).search.space
    assert isinstance(space, ShuffleSpaceConfig)
    assert (space.head, space.stem) == ((64, 96), (16,))


@pytest.mark.slow
def test_a_search_of_the_shuffle_space(tmp_path: Path) -> None:
    search = open_search(tmp_path / "run", recipe("search.space.kind=shuffle", "search.budget.macs=1500000"))
    result = search.carry_out()
    assert result.chosen.costs.macs <= 1_500_000
    assert result.chosen.network["kind"] == "shuffle"
    network = recipe(f"student.network={search.folder / 'architecture.json'}").student.network
    assert isinstance(network, ShuffleConfig)
    build(network).load_state_dict(load_tensors(search.folder / "inherited.safetensors")[0])


def test_a_list_names_its_networks_and_gives_them_the_anchor_s_dimension() -> None:
    space = ListedSpace(ListedSpaceConfig(networks=networks("timm"), dim=24))  # type: ignore[arg-type]
    assert space.choices[0].options == ("0-elastic", "1-elastic", "2-shuffle-s", "3-mobilenetv3_small_050")
    configs = [space.config(Architecture((place,))) for place in range(4)]
    assert [config.output_dim for config in configs] == [24] * 4
    assert (configs[1].dim, configs[1].project) == (16, 24)
    assert isinstance(configs[3], TimmConfig)


def networks(last: str) -> list[Any]:
    tiny = ElasticConfig(stem=8, stages=(Stage(width=8),), head=16)
    timm = [{"kind": "timm", "name": "mobilenetv3_small_050"}] if last == "timm" else []
    return [tiny, tiny.model_copy(update={"dim": 16, "project": 32}), preset("shuffle-s"), *timm]


def listed(last: str) -> str:
    fields = ListedSpaceConfig(networks=networks(last)).model_dump(mode="json")  # type: ignore[arg-type]
    fields["networks"].pop(2)  # two tiny ones, and that of timm
    return f"search.space={json.dumps(fields)}"


@pytest.mark.parametrize("last", ["none", TIMM])
def test_latency_tables_refuse_networks_they_do_not_know(last: str, space: ShuffleSpace) -> None:
    pricing = Pricing(BudgetConfig(), 32, None)
    pricing.tables = {"phone": None}  # type: ignore[dict-item]
    config = space.config(space.smallest()) if last == "none" else TimmConfig(name="mobilenetv3_small_050")
    with pytest.raises(RecipeError, match="elastic family alone"):
        pricing.of(config)


@pytest.mark.slow
@pytest.mark.parametrize("last", ["none", TIMM])
def test_a_list_is_trained_scored_and_reported_as_a_space(tmp_path: Path, last: str) -> None:
    """Networks that are there are not trained again; one that is not comes out the same."""
    settings, folder = recipe(listed(last)), tmp_path / "run"
    found = open_search(folder, settings).carry_out()
    count = 3 if last == "timm" else 2
    assert len(found.looked_at) == count
    kept = sorted(path.parent.name for path in (folder / "search" / "listed").glob("*/model.json"))
    assert kept == ["0-elastic", "1-elastic", "2-mobilenetv3_small_050"][:count]
    assert not (folder / "search" / "supernet").exists()
    chosen = folder / "search" / "listed" / found.chosen.choices["network"] / "network.safetensors"
    inherited = load_tensors(folder / "search" / "best" / "inherited.safetensors")[0]
    assert all(torch.equal(value, load_tensors(chosen)[0][name]) for name, value in inherited.items())
    (folder / "search" / "scores.jsonl").unlink()
    shutil.rmtree(folder / "search" / "listed" / "1-elastic")
    kept_one = folder / "search" / "listed" / "0-elastic" / "network.safetensors"
    written = kept_one.stat().st_mtime_ns
    again = open_search(folder, settings, "again")
    assert again.carry_out().front == found.front
    assert kept_one.stat().st_mtime_ns == written
    assert SearchResult.from_json(read_json(again.folder / "result.json")).chosen == found.chosen


def test_a_search_may_not_be_named_as_the_folder_of_a_list(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'listed' is no name for a search"):
        open_search(tmp_path, recipe(), "listed")


@pytest.mark.slow
def test_a_killed_supernet_of_operators_ends_with_the_same_weights(tmp_path: Path) -> None:
    """A step trains some operators and not others, whose state in the optimiser comes later."""
    changes = (
        "search.space.kind=shuffle",
        "search.paths.rule=single",
        "search.fit.steps=16",
        "search.fit.checkpoint_every=2",
    )
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    _ = open_search(whole, recipe(*changes)).supernet
    argv = [sys.executable, "-m", "hetero", "search", "demo", "--run", str(killed), *SETTINGS, *changes]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (killed / "search" / "supernet" / "checkpoint.safetensors").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (killed / "search" / "supernet" / "supernet.safetensors").exists()
    _ = open_search(killed, recipe(*changes)).supernet
    first, second = (
        (each / "search" / "supernet" / "supernet.safetensors").read_bytes() for each in (whole, killed)
    )
    assert first == second
