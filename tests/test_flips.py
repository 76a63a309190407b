"""`hetero flips` on real models, bundles, runtimes and stored vectors: the same command for all of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from hetero.cli.flips import command
from hetero.cli.main import main
from hetero.cli.upgrade import command as upgrade
from hetero.models import store
from hetero.models.opening import open_encoder
from hetero.objectives.softmax import MarginSoftmaxConfig
from hetero.recipes.resolve import resolve
from hetero.report import read
from hetero.retrieval import evaluate
from hetero.runs import Run
from hetero.upgrades.classifier import Head
from hetero.upgrades.flips import FlipGate, compare
from hetero.upgrades.pictures import TestImages, pictures_of
from hetero.upgrades.systems import Wanted, open_system
from hetero_devices.errors import DataError, ModelError, SpaceMismatch
from hetero_devices.space import Embeddings, Space
from tests.small import small

SMALL = small("elastic-xs", steps=4, views=1)


def vectors(degrees: npt.ArrayLike, labels: list[int], first_id: int, space: str = "a" * 16) -> Embeddings:
    angle = np.radians(np.asarray(degrees, np.float64))
    raw = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    ids = np.arange(len(raw), dtype=np.int64) + first_id
    return Embeddings(raw, ids, np.array(labels, np.int64), Space(space, 2))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Gallery: class 0 at 0 degrees, class 1 at 90. Five queries of an old and a new model."""
    labels = [0, 0, 1, 1, 1]
    vectors([0, 90], [0, 1], 100).save(tmp_path / "gallery")
    vectors([10, 20, 80, 70, 10], labels, 0).save(tmp_path / "old")  # the last is wrong
    vectors([10, 80, 80, 10, 80], labels, 0).save(tmp_path / "new")  # 1 and 3 wrong, the last right
    return tmp_path


def flips(*arguments: Any) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_flips_of_stored_embeddings_worked_by_hand(stored: Path) -> None:
    done = flips(stored / "old", stored / "new", "--gallery", stored / "gallery", "--json", "--by-query")
    assert done.exit_code == 0
    found = json.loads(done.output)
    assert found["old"]["score"] == pytest.approx(4 / 5)
    assert found["new"]["score"] == pytest.approx(3 / 5)
    assert found["flips"]["nfr"]["value"] == pytest.approx(2 / 5)
    assert found["flips"]["pfr"]["value"] == pytest.approx(1 / 5)
    assert found["flips"]["relative_nfr"] == pytest.approx(0.4 / (0.8 * 0.4))
    assert found["flips"]["nfi"] == pytest.approx(1.0)
    assert found["negative_query_ids"] == [1, 3]
    assert found["positive_query_ids"] == [4]
    by_class = {
        each["label"]: (each["negative"], each["positive"], each["queries"]) for each in found["by_class"]
    }
    assert by_class == {0: (1, 0, 2), 1: (1, 1, 3)}
    assert not list(stored.glob(".*"))


@pytest.mark.parametrize(("limit", "code"), [("0.4", 0), ("0.39", 1)])
def test_the_gate_decides_the_exit_code(stored: Path, limit: str, code: int) -> None:
    given = (stored / "old", stored / "new", "--gallery", stored / "gallery", "--max-nfr", limit)
    assert flips(*given).exit_code == code
    assert flips(*given, "--by-interval").exit_code == 1  # of five queries the interval reaches further


def test_no_error_leaves_nothing_to_be_relative_to(stored: Path) -> None:
    vectors([0, 0, 90, 90, 90], [0, 0, 1, 1, 1], 0).save(stored / "perfect")
    done = flips(stored / "old", stored / "perfect", "--gallery", stored / "gallery", "--json")
    assert json.loads(done.output)["flips"]["relative_nfr"] is None
    assert "nan" not in flips(stored / "old", stored / "perfect", "--gallery", stored / "gallery").output


def test_each_side_may_have_its_own_gallery_and_space(stored: Path) -> None:
    vectors([10, 20, 80, 70, 10], [0, 0, 1, 1, 1], 0, "b" * 16).save(stored / "other")
    with pytest.raises(SpaceMismatch):
        flips(stored / "old", stored / "other", "--gallery", stored / "gallery")
    vectors([0, 90], [0, 1], 100, "b" * 16).save(stored / "gallery-b")
    sides = ("--old-gallery", stored / "gallery", "--new-gallery", stored / "gallery-b", "--json")
    assert json.loads(flips(stored / "old", stored / "other", *sides).output)["flips"]["nfr"]["value"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", "new"), "there is no folder"),
        (("old", "other"), "cannot pair 5 queries with 2 others"),
        (("old", "new", "--new-precision", "int8"), "only a bundle has a format"),
        (("old", "new", "--classify"), "has no class head"),
        (("old", "new", "--metric", "map"), "is no success bit"),
    ],
)
def test_mistakes_are_one_line_and_exit_with_2(
    stored: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(stored / a) if a in ("old", "new", "nowhere", "other") else a for a in arguments]
    vectors([0, 1], [0, 0], 0).save(stored / "other")
    monkeypatch.setattr(sys, "argv", ["hetero", "flips", *given, "-o", str(stored / "report")])
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (stored / "report").exists()


def test_a_bundle_against_itself_in_int8_and_on_a_device(
    tiny_bundle: Path, arrays: Path, tmp_path: Path
) -> None:
    """The tiny int8 file takes quantised pixels and computes in float, so nothing flips."""
    given = (tiny_bundle, tiny_bundle, "--queries", arrays, "--json")
    int8 = json.loads(flips(*given, "--new-precision", "int8", "--new-format", "tflite").output)
    assert int8["queries"] == 60
    assert int8["flips"]["nfr"]["value"] == 0
    host = json.loads(flips(*given, "--new-on", "host").output)
    assert host["flips"]["nfr"]["value"] == host["flips"]["pfr"]["value"] == 0
    assert not list(tiny_bundle.parent.glob(".bundle*"))
    work = tmp_path / "work"
    images = TestImages.of_source(str(arrays))
    open_system(Wanted(tiny_bundle, device="host"), images, work)
    assert list(work.rglob("embeddings.npy"))  # what a killed command continues from


def test_what_a_runner_left_is_searched_in_the_gallery_it_is_given(
    tiny_bundle: Path, arrays: Path, tmp_path: Path
) -> None:
    images = TestImages.of_source(str(arrays))
    query = images.at(8).query
    np.save(tmp_path / "images.npy", query.images)
    job = {"model": str(tiny_bundle / "model.fp32.onnx"), "images": "images.npy", "output": "out"}
    (tmp_path / "job.json").write_text(json.dumps(job))
    run = [sys.executable, "-m", "hetero_devices", "run", str(tmp_path / "job.json")]
    subprocess.run(run, check=True, capture_output=True)
    gallery = tmp_path / "gallery"
    system = open_system(Wanted(tiny_bundle), images, tmp_path / "work")
    assert system.gallery is not None
    system.gallery.save(gallery)
    found = json.loads(
        flips(tiny_bundle, tmp_path / "out", "--queries", arrays, "--gallery", gallery, "--json").output
    )
    assert found["flips"]["nfr"]["value"] == found["flips"]["pfr"]["value"] == 0
    with pytest.raises(DataError, match="bare vectors"):
        flips(tiny_bundle, tmp_path / "out", "--queries", arrays)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes, each on both sides of the split, as CSV; d is not in `few.csv`, alone in `last.csv`."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    lines = []
    for name in "abcd":
        base = generator.integers(0, 256, (16, 16, 3))
        for i in range(10):
            pixels = (base + generator.integers(-30, 30, base.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}{i}.png")
            lines.append(f"{name}{i}.png,{name},{'test' if i > 5 else 'train'}")
    for file, kept in (("all.csv", "abcd"), ("few.csv", "abc"), ("last.csv", "d")):
        chosen = [line for line in lines if line[0] in kept]
        (folder / file).write_text("\n".join(["path,label,split", *chosen]) + "\n")
    return folder


@pytest.fixture(scope="module")
def runs(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """v1 knows classes a, b, c; v2's anchor is v1's, its student is trained on all four."""
    folder = tmp_path_factory.mktemp("runs")
    first = Run.open(folder / "v1", resolve("demo", [*SMALL, f"data.source={photos / 'few.csv'}"]))
    _ = first.anchor, first.student, first.alone
    line = f"anchor.source={folder / 'v1' / 'anchor'}"
    second = Run.open(folder / "v2", resolve("demo", [*SMALL, f"data.source={photos / 'all.csv'}", line]))
    _ = second.student, second.alone
    return folder / "v1", folder / "v2"


def test_two_runs_are_compared_on_their_test_images_with_pictures(
    runs: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    images = ("--queries", photos / "few.csv")
    done = flips(*runs, *images, "-o", tmp_path / "report")
    assert done.exit_code == 0
    report = read(tmp_path / "report")
    assert report.tables[0].title == "Flips"
    first, second = (Run.existing(folder) for folder in runs)
    size, values = 16, []
    for run in (first, second):
        sides = TestImages.of_source(str(photos / "few.csv")).at(size)
        query = open_encoder(run.folder / "student").encode(sides.query.images)
        gallery = run.anchor.embed("test", sides.gallery)
        bits = evaluate(Embeddings(query, sides.query.ids, sides.query.labels, run.anchor.space), gallery)
        values.append(bits.per_query("recall@1").values)
    assert report.values["flips"]["nfr"]["value"] == pytest.approx((values[0] > values[1]).mean())
    page = (tmp_path / "report" / "report.html").read_text()
    assert ("data:image/png" in page) == bool(report.values["negative_query_ids"])
    assert not (tmp_path / "report" / ".work").exists()


def test_classifiers_are_compared_by_name_of_class(
    runs: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    old, new = runs[0] / "anchor", runs[1] / "alone"
    report = compare(
        Wanted(old),
        Wanted(new),
        tmp_path,
        images=TestImages.of_source(str(photos / "all.csv")),
        classify=True,
    )
    query = TestImages.of_source(str(photos / "all.csv")).at(16).query
    truth = [query.class_names[label] for label in query.labels]
    right = []
    for folder in (old, new):
        model = store.load(folder)
        head = Head.of(model, "it")
        logits = head.logits(model.encoder.encode(query.images))
        right.append(np.array([head.classes[k] == t for k, t in zip(logits.argmax(1), truth, strict=True)]))
    assert report.values["old"]["score"] == pytest.approx(right[0].mean())
    assert report.values["flips"]["nfr"]["value"] == pytest.approx((right[0] & ~right[1]).mean())
    last = report.values["by_class"][-1]
    assert (last["name"], last["old_right"]) == ("d", 0)  # a class the old model does not know
    if report.values["negative_query_ids"]:
        assert "right" in report.figures[0].alternative


def test_a_head_may_come_from_elsewhere(runs: tuple[Path, Path], photos: Path, tmp_path: Path) -> None:
    images = TestImages.of_source(str(photos / "all.csv"))
    side = Wanted(runs[0] / "anchor", head=runs[0] / "anchor")
    report = compare(side, side, tmp_path, images=images, classify=True, gate=FlipGate(0.0))
    assert report.passed
    assert report.values["flips"]["pfr"]["value"] == 0
    with pytest.raises(ModelError, match="no class head"):
        compare(side, Wanted(runs[1]), tmp_path, images=images, classify=True)


def test_an_ensemble_answers_together(runs: tuple[Path, Path], photos: Path, tmp_path: Path) -> None:
    images = TestImages.of_source(str(photos / "all.csv"))
    members = (runs[1] / "alone", runs[0] / "anchor", runs[0] / "alone")
    with pytest.raises(ModelError, match="members 0 and 1 name other classes"):
        compare(
            Wanted(members[1]),
            Wanted(members[0], members=members[1:]),
            tmp_path,
            images=images,
            classify=True,
        )
    side = Wanted(members[1], members=members[2:])
    assert side.name.endswith("anchor and 1 more")
    together = compare(Wanted(members[1]), side, tmp_path, images=images, classify=True)
    query = images.at(16).query
    heads = [Head.load(folder) for folder in members[1:]]
    logits = [
        head.logits(store.load(folder).encoder.encode(query.images))
        for head, folder in zip(heads, members[1:], strict=True)
    ]
    named = [heads[0].classes[k] for k in np.mean(logits, axis=0).argmax(1)]
    right = [name == query.class_names[label] for name, label in zip(named, query.labels, strict=True)]
    assert together.values["new"]["score"] == pytest.approx(np.mean(right))
    searched = open_system(side, images, tmp_path)
    assert searched.gallery is not None
    assert searched.query.space == searched.gallery.space
    assert searched.query.space.dim == 32
    done = flips(
        members[1], members[1], "--new-with", members[2], "--classify", "--queries", photos / "all.csv"
    )
    assert done.exit_code == 0
    searched.query.save(tmp_path / "stored")
    with pytest.raises(ModelError, match="only models that embed images form an ensemble"):
        open_system(Wanted(tmp_path / "stored", members=members[1:]), images, tmp_path)


def test_an_update_keeps_a_share_of_the_old_weights(
    runs: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    old, source = runs[0] / "anchor", photos / "all.csv"
    given = (f"data.source={source}", f"student.start={old / 'network.safetensors'}", f"anchor.source={old}")
    run = Run.open(tmp_path / "tuned", resolve("demo", [*SMALL, *given]))
    _ = run.student_by((MarginSoftmaxConfig(),), run.recipe.student.fit, "tuned")
    new = run.folder / "tuned"
    words = ["interpolate", old, new, "--images", source, "-o", tmp_path / "mixed"]

    def say(*more: Any) -> Result:
        return CliRunner().invoke(upgrade, [str(w) for w in (*words, *more)], catch_exceptions=False)

    chosen = json.loads(say("--unseen", source, "--fisher", "--json").output)
    assert [trial["share"] for trial in chosen["trials"]] == [i / 10 for i in range(10)]
    assert chosen["share"] in {trial["share"] for trial in chosen["trials"]}
    assert store.load(tmp_path / "mixed").classes == ("a", "b", "c", "d")
    assert "with 40% of the old weights" in say("--share", "0.4").output
    report = compare(
        Wanted(old), Wanted(tmp_path / "mixed"), tmp_path / "work",
        images=TestImages.of_source(str(source)), classify=True,
    )  # fmt: skip
    assert 0 <= report.values["flips"]["nfr"]["value"] <= 1
    assert say().exit_code == say("--share", "0.4", "--unseen", source).exit_code == 2
    for taken, message in ((old, "one of the models that are mixed"), (photos, "exists and is not")):
        words[-1] = taken
        refused = CliRunner().invoke(upgrade, [*map(str, words), "--share", "0.4"])
        assert refused.exit_code != 0
        assert message in refused.output + str(refused.exception)
    words[-1] = tmp_path / "mixed"
    with pytest.raises(DataError, match="the old model is right on none of these images"):
        say("--unseen", photos / "last.csv")


def test_flipped_queries_are_shown_beside_both_answers(
    runs: tuple[Path, Path], photos: Path, tmp_path: Path
) -> None:
    """A shuffled gallery of the same images breaks searches: its pictures are found by id."""
    images = TestImages.of_source(str(photos / "all.csv"))
    anchor = store.load(runs[0] / "anchor").encoder
    sides = images.at(16)
    good = Embeddings(
        anchor.encode(sides.gallery.images), sides.gallery.ids, sides.gallery.labels, anchor.space
    )
    bad = Embeddings(np.roll(good.vectors, 7, axis=0), good.ids, good.labels, good.space)
    good.save(tmp_path / "good")
    bad.save(tmp_path / "bad")
    old, new = (Wanted(runs[0] / "anchor", gallery=tmp_path / name) for name in ("good", "bad"))
    report = compare(old, new, tmp_path / "work", images=images)
    assert report.values["negative_query_ids"]
    (figure,) = report.figures
    assert figure.alternative.startswith(f"{min(16, len(report.values['negative_query_ids']))} of")
    assert pictures_of(good, sides.gallery) is not None
    assert pictures_of(vectors([0], [0], 999_999), sides.gallery) is None


@pytest.mark.slow
def test_a_killed_command_continues_with_the_shards_a_device_finished(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (1600, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "many.npz", images=pixels, labels=np.repeat(np.arange(16), 100))
    given = [
        str(tiny_bundle),
        str(tiny_bundle),
        "--queries",
        str(tmp_path / "many.npz"),
        "--json",
        "--new-on",
    ]
    line = [sys.executable, "-m", "hetero", "flips", *given, "host", "-o"]
    straight = subprocess.run([*line, str(tmp_path / "straight")], check=True, capture_output=True, text=True)
    work = tmp_path / "killed" / ".work"
    process = subprocess.Popen([*line, str(tmp_path / "killed")], stdout=subprocess.DEVNULL)
    while not (kept := [path for path in work.glob("*/0*") if path.is_dir()]):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "killed" / "report.json").exists()
    assert (kept[0] / "embeddings.npy").is_file()
    again = subprocess.run([*line, str(tmp_path / "killed")], check=True, capture_output=True, text=True)
    assert json.loads(again.stdout) == json.loads(straight.stdout)
    assert not work.exists()
