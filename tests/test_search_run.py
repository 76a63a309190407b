"""A whole search on a tiny run: resumed after kills, in processes and on Ray, and its result retrained."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hetero.models.elastic import PRESETS, ElasticConfig
from hetero.recipes.recipe import Recipe
from hetero.recipes.resolve import resolve
from hetero.runs import Run
from hetero.search.blocks import distinct, parts
from hetero.search.candidates import sample_distinct
from hetero.search.result import SearchResult
from hetero.search.searching import Search, open_search
from hetero.tensors import load_tensors
from hetero_devices.cpu import describe
from hetero_devices.errors import DeviceError, RecipeError
from hetero_devices.files import read_json, write_json
from hetero_devices.latency_table import LatencyTable, rows

SETTINGS = (
    "anchor.network=residual-s",
    "anchor.fit.precision=fp32",
    *(f"{part}.fit.{key}" for part in ("anchor", "student", "search") for key in ("steps=8", "batch=16")),
    *(f"{part}.fit.checkpoint_every=2" for part in ("anchor", "search")),
    "student.views=1",
    "student.alone=false",
    "gates.criterion=false",
    "search.settle=32",
    "search.queries=60",
    "search.algorithm.population=4",
    "search.algorithm.generations=2",
    "search.algorithm.parents=2",
)


def recipe(*changes: str) -> Recipe:
    return resolve("demo", [*SETTINGS, *changes])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Carried out on one thread, as `start` does: another number adds in another order."""
    search = open_search(tmp_path_factory.mktemp("searched") / "run", recipe("search.budget.macs=2000000"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        search.carry_out()
    finally:
        torch.set_num_threads(before)
    return search


def test_the_result_says_what_was_chosen_and_where_it_comes_from(searched: Search) -> None:
    result = SearchResult.from_json(read_json(searched.folder / "result.json"))
    assert result.chosen.costs.macs <= 2_000_000
    assert result.chosen.reward == max(reward for _, reward in result.looked_at) == result.front[-1].reward
    assert result.chosen.reward == result.chosen.scores.symmetric * result.chosen.scores.asymmetric
    assert result.lineage["space"] == searched.run.anchor.space.to_json()
    assert len(result.looked_at) == 8
    assert (searched.folder / "search.png").read_bytes().startswith(b"\x89PNG")


def test_the_chosen_architecture_is_trained_by_its_file(searched: Search, tmp_path: Path) -> None:
    network, start = searched.folder / "architecture.json", searched.folder / "inherited.safetensors"
    changed = recipe(f"student.network={network}", f"student.start={start}", "student.fit.rate=1e-9")
    run = Run.open(tmp_path / "found", changed)
    inherited, trained = load_tensors(start)[0], run.student.deploy.network.state_dict()
    assert inherited.keys() == trained.keys()
    assert (inherited["embed.weight"] - trained["embed.weight"]).abs().max() < 1e-4
    assert (
        run.student.cost.macs
        == SearchResult.from_json(read_json(searched.folder / "result.json")).chosen.costs.macs
    )
    other = recipe("student.network=elastic-s", f"student.start={start}")
    with pytest.raises(RecipeError, match="weights of another network"):
        _ = Run.open(tmp_path / "other", other).student


def test_another_budget_shares_supernet_and_scores(searched: Search) -> None:
    weights = (searched.shared / "supernet" / "supernet.safetensors").read_bytes()
    scored = len((searched.shared / "scores.jsonl").read_text().splitlines())
    other = open_search(searched.run.folder, recipe("search.budget.macs=900000"), "watch")
    assert other.carry_out().chosen.costs.macs <= 900_000
    assert (searched.shared / "supernet" / "supernet.safetensors").read_bytes() == weights
    assert len((searched.shared / "scores.jsonl").read_text().splitlines()) > scored


def test_a_search_begins_with_what_was_scored_before(searched: Search) -> None:
    """How many that were is noted, so that a search that is continued has the same start."""
    before = len((searched.shared / "scores.jsonl").read_text().splitlines())
    chosen = searched.carry_out().chosen
    found = open_search(searched.run.folder, recipe(), "again").carry_out()
    assert read_json(searched.shared / "again" / "begun.json") == {"scored": before}
    assert found.chosen.reward >= chosen.reward
    assert len(found.looked_at) > before


def latency_table(path: Path) -> LatencyTable:
    """Blocks of the presets and of some candidates; time grows with every feature of theirs."""
    networks = [*PRESETS.values(), *sample_distinct(8, seed=0)]
    blocks = distinct(parts(config, 32) for config in networks)
    ms = {block.key: 0.01 + 1e-7 * sum(block.features.values()) for block in blocks}
    table = LatencyTable(
        device="phone",
        format="tflite",
        precision="int8",
        threads=1,
        cpu=describe(),
        runtime={},
        rows=rows(blocks, ms),
    )
    table.save(path)
    return table


def test_a_budget_of_time_is_kept_by_a_table(searched: Search, tmp_path: Path) -> None:
    path = tmp_path / "phone.json"
    table = latency_table(path)
    prices = {}
    for ms in (0.2, 0.3):
        budget = f"search.budget.latency=[{{table: {path}, ms: {ms}}}]"
        found = open_search(searched.run.folder, recipe(budget), f"phone-{ms}").carry_out()
        assert all(candidate.costs.latency["phone"] <= ms for candidate in found.front)
        network = ElasticConfig.model_validate(found.chosen.network)
        prices[ms] = found.chosen.costs.latency["phone"]
        assert prices[ms] == table.predict(parts(network, 32), interpolate=True)
    assert prices[0.2] <= 0.2
    with pytest.raises(RecipeError, match="within the budget"):
        open_search(
            searched.run.folder, recipe(f"search.budget.latency=[{{table: {path}, ms: 0.01}}]"), "none"
        ).carry_out()
    path.write_text("{}")
    with pytest.raises(DeviceError, match="latency table"):
        open_search(
            searched.run.folder, recipe(f"search.budget.latency=[{{table: {path}, ms: 1}}]"), "torn"
        ).carry_out()


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        ("search.budget.macs=3", "best", "search of another `search.budget`: give another --name"),
        ("search.fit.steps=9", "more", "search of another `search.fit`: give another --run"),
        ("search.budget.macs=3", "../out", "is no name for a search"),
    ],
)
def test_settings_do_not_mix(searched: Search, change: str, name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        open_search(searched.run.folder, recipe(change), name)


def test_settings_of_an_older_version_are_those_with_the_newer_defaults(
    searched: Search, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(searched.run.folder, folder)
    path = folder / "search" / "supernet.json"
    older = read_json(path)
    del older["space"]["resolution"]
    write_json(path, older)
    open_search(folder, recipe(), "again")
    assert read_json(path)["space"]["resolution"] == []
    write_json(path, {**older, "space": {"kind": "none"}})
    with pytest.raises(RecipeError, match=r"supernet\.json is damaged, or of another version"):
        open_search(folder, recipe(), "again")


def start(folder: Path, *changes: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "hetero", "search", "demo", "--run", str(folder), *SETTINGS, *changes]
    return subprocess.Popen(argv, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_result(searched: Search, tmp_path: Path) -> None:
    """Killed in the supernet's training, and between candidates."""
    folder, budget = tmp_path / "run", "search.budget.macs=2000000"
    for mark in ("supernet/checkpoint.safetensors", "scores.jsonl"):
        with start(folder, budget) as process:
            deadline = time.monotonic() + 300
            while not (folder / "search" / mark).exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
    with start(folder, budget) as process:
        assert process.wait(300) == 0, process.stderr.read().decode() if process.stderr else ""
    for name in ("best/result.json", "supernet/supernet.safetensors", "best/inherited.safetensors"):
        assert (folder / "search" / name).read_bytes() == (searched.shared / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_workers_give_the_same_scores_and_survive_a_kill(searched: Search, tmp_path: Path, kind: str) -> None:
    if kind == "ray":
        pytest.importorskip("ray", reason="ray is not installed: pip install 'hetero[cluster]'")
    folder = tmp_path / "run"
    changes = ("search.budget.macs=2000000", f"search.workers={{kind: {kind}, count: 2}}")
    with start(folder, *changes) as process:
        deadline = time.monotonic() + 300
        while not (workers := _workers(process.pid, kind)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait(500) == 0, process.stderr.read().decode() if process.stderr else ""

    def by_architecture(path: Path) -> dict[str, object]:
        lines = map(json.loads, path.read_text().splitlines())
        return {json.dumps(line["architecture"]): line["scores"] for line in lines}

    here = by_architecture(searched.shared / "scores.jsonl")
    there = by_architecture(folder / "search" / "scores.jsonl")
    assert there.items() <= here.items()


def _workers(parent: int, kind: str) -> list[int]:
    """Processes that score for `parent`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text().replace("\0", " ")
            above = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        spawned = kind == "processes" and "spawn_main" in words and above == parent
        if spawned or (kind == "ray" and words.startswith("ray::") and "_score" in words):
            found.append(int(path.name))
    return found
