"""The full graph: links between versions worked by hand, and real runs, bundles and a device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from hetero.cli.graph import graph as command
from hetero.report import read
from hetero.retrieval import average_accuracy, update_gain
from hetero.runs.sides import Sides
from hetero.upgrades.graph import CLOUD, Row, graph
from hetero.upgrades.graph_report import graph_report
from hetero.upgrades.graph_sources import Artefacts, sources
from hetero.upgrades.pictures import TestImages
from hetero_devices.errors import DataError, SpaceMismatch
from hetero_devices.space import Embeddings, Space

LABELS = [0, 0, 0, 0, 1, 1, 1, 1]
WRONG = {0: 90.0, 1: 0.0}  # where a query of the other class lies
RIGHT = {0: 0.0, 1: 90.0}


def vectors(degrees: npt.ArrayLike, labels: list[int], first_id: int, space: str = "a" * 16) -> Embeddings:
    angle = np.radians(np.asarray(degrees, np.float64))
    raw = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    ids = np.arange(len(raw), dtype=np.int64) + first_id
    return Embeddings(raw, ids, np.array(labels, np.int64), Space(space, 2))


def query(wrong: tuple[int, ...], space: str = "a" * 16) -> Embeddings:
    """Eight queries, of which those in `wrong` find the other class."""
    degrees = [(WRONG if i in wrong else RIGHT)[label] for i, label in enumerate(LABELS)]
    return vectors(degrees, LABELS, 0, space)


def gallery(degrees: tuple[float, float] = (10, 80), space: str = "a" * 16) -> Embeddings:
    return vectors(degrees, [0, 1], 100, space)


ROWS = [
    Row(CLOUD, "v1", query((0, 1, 4, 5))),
    Row(CLOUD, "v2", query((0,))),
    Row("student", "v1", query((0, 1, 2, 4, 5))),
    Row("student", "v2", query((0, 1, 4))),
]
GALLERIES = {"v1": gallery(), "v2": gallery((5, 85))}


def test_links_worked_by_hand() -> None:
    found = graph(ROWS, GALLERIES)
    links = {(link.role, link.query, link.gallery): link for link in found.links}
    assert len(links) == 4
    criterion = links[CLOUD, "v2", "v1"]
    assert criterion.forward
    assert criterion.comparison.difference.value == pytest.approx(7 / 8 - 4 / 8)
    assert (criterion.flips.nfr.value, criterion.flips.pfr.value) == (0, 3 / 8)
    assert criterion.verdict == "holds"
    field = links["student", "v1", "v2"]  # yesterday's phone, today's gallery: every answer as before
    assert not field.forward
    assert field.comparison.difference.value == 0
    assert field.verdict == "holds"
    assert links["student", "v2", "v1"].comparison.difference.value == pytest.approx(2 / 8)


def test_a_link_fails_or_stays_unproven() -> None:
    worse = Row("student", "v2", query((0, 1, 2, 3, 4, 5, 6, 7)))
    link = next(
        each for each in graph([*ROWS[:3], worse], GALLERIES).links if each.role == "student" and each.forward
    )
    assert link.verdict == "fails"
    assert link.flips.nfr.value == pytest.approx(3 / 8)
    turned = {"v1": gallery(), "v2": gallery((80, 10))}  # a new gallery in which everything is upside down
    for wrong, verdict, difference in (((0,), "fails", -6 / 8), ((0, 1, 2, 3), "unproven", 0.0)):
        phone = Row("student", "v1", query(wrong))  # the latter: one class gains all, the other loses all
        link = next(each for each in graph([phone], turned).links if not each.forward)
        assert link.comparison.difference.value == pytest.approx(difference)
        assert link.verdict == verdict


def test_series_have_the_published_definitions() -> None:
    paragons = {"v2": Sides(query((), "b" * 16), gallery(space="b" * 16))}
    cloud, student = graph(ROWS, GALLERIES, paragons).series
    expected = np.array([[4, 4], [7, 7]]) / 8
    np.testing.assert_allclose(cloud.scores, expected)
    assert cloud.ac == 1.0
    assert cloud.aa == pytest.approx(average_accuracy(expected))
    assert cloud.gain == {"v2": pytest.approx(update_gain(new_old=7 / 8, old_old=4 / 8, paragon=1.0))}
    assert cloud.tax == {"v2": pytest.approx(1 / 8)}
    assert student.gain == {"v2": pytest.approx(1.0)}  # against its own new/new: no paragon was trained
    assert student.tax == {}


def test_no_gain_where_there_is_nothing_to_gain() -> None:
    same = [Row(CLOUD, "v1", query((0,))), Row(CLOUD, "v2", query((0,)))]
    (series,) = graph(same, GALLERIES).series
    assert series.gain == {"v2": None}
    assert series.ac == 0
    assert "v2: –" in str(graph_report(graph(same, GALLERIES)).tables[1])


def test_muddle_is_refused() -> None:
    with pytest.raises(DataError, match="at least two versions"):
        graph(ROWS[:1], {"v1": gallery()})
    with pytest.raises(DataError, match="'v9 student' is of no version"):
        graph([Row("student", "v9", query(()))], GALLERIES)
    with pytest.raises(DataError, match="named twice"):
        graph([ROWS[0], ROWS[0]], GALLERIES)
    other = [ROWS[0], Row(CLOUD, "v2", query((), "b" * 16))]
    spaces = {"v1": gallery(), "v2": gallery(space="b" * 16)}
    with pytest.raises(SpaceMismatch):
        graph(other, spaces)
    assert graph(other, spaces, across_spaces=True).crossed.across_spaces


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    for version, (name, side) in zip(ROWS[:2], GALLERIES.items(), strict=True):
        version.query.save(tmp_path / name / "query")
        side.save(tmp_path / name / "gallery")
    for row in ROWS[2:]:
        row.query.save(tmp_path / f"phone-{row.version}")
    return tmp_path


def test_the_command_writes_one_report_and_gates_it(stored: Path) -> None:
    given = [f"--version=v1={stored / 'v1'}", f"--version=v2={stored / 'v2'}", "-o", stored / "report"]
    phones = [f"--student={v}={stored / f'phone-{v}'}" for v in ("v1", "v2")]
    done = run(*given, *phones, "--json")
    assert done.exit_code == 0
    values = json.loads(done.output)
    assert [link["verdict"] for link in values["links"] if link["role"] == CLOUD] == ["holds", "holds"]
    report = read(stored / "report")
    assert "links between versions hold" in report.summary
    assert len(report.matrices) == 2
    page = (stored / "report" / "report.html").read_text()
    assert "Links between versions" in page
    assert "v1 student" in page
    assert not (stored / "report" / ".work").exists()
    backwards = [f"--version=v2={stored / 'v2'}", f"--version=v1={stored / 'v1'}", "-o", stored / "worse"]
    assert run(*backwards, "--gate").exit_code == 1
    assert run(*given, *phones, "--max-loss", "0", "--gate").exit_code == int(not _all_hold(values))


def _all_hold(values: Any) -> bool:
    return all(link["verdict"] == "holds" for link in values["links"])


@pytest.mark.parametrize("pair", ["v1", "v1=", "=x"])
def test_a_pair_is_a_name_and_a_path(pair: str, tmp_path: Path) -> None:
    done = run("--version", pair, "-o", tmp_path)
    assert done.exit_code == 2
    assert "is not NAME=PATH" in done.output


def test_bundles_give_a_row_for_every_artefact_and_device(
    tiny_bundle: Path, arrays: Path, tmp_path: Path
) -> None:
    images = TestImages.of_source(str(arrays))
    versions = {"v1": tiny_bundle, "v2": tiny_bundle}
    phones = [("v1", tiny_bundle), ("v2", tiny_bundle)]
    rows, galleries = sources(versions, phones, images, Artefacts(precisions=("int8",)), tmp_path / "work")
    assert [row.name for row in rows] == [
        "v1 cloud",
        "v2 cloud",
        "v1 student tflite int8",
        "v2 student tflite int8",
    ]
    there = Artefacts(formats=("onnx",), devices=("host",))
    rows, galleries = sources(versions, phones, images, there, tmp_path / "work")
    assert rows[-1].name == "v2 student onnx fp32 on host"
    found = graph(rows, galleries)
    assert all(link.comparison.difference.value == 0 for link in found.links)  # the same model throughout
    assert not any(link.flips.nfr.value for link in found.links)


def test_what_is_no_version_is_refused(stored: Path, arrays: Path) -> None:
    with pytest.raises(DataError, match="query/ and gallery/ inside"):
        sources({"v1": stored / "phone-v1"}, [], None, Artefacts(), stored)
    with pytest.raises(DataError, match="there is no folder"):
        sources({"v1": stored / "nothing"}, [], None, Artefacts(), stored)
