"""The report: what it says is what was measured, in every form, and the page is safe and self-contained."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hetero import report as reporting
from hetero.report import (
    Figure,
    Gate,
    Headline,
    LatencyRow,
    ModelRow,
    ParityRow,
    Report,
    Versus,
    colours,
    html,
    markdown,
    wording,
)
from hetero.report.terminal import print_matrix
from hetero.retrieval import (
    MAP,
    RECALL_AT_1,
    Estimate,
    PerQuery,
    bootstrap,
    compatibility_criterion,
    cross_evaluate,
    paired_difference,
    retention_interval,
)
from hetero_devices.errors import HeteroError
from hetero_devices.space import Embeddings, Space

SPACE, OTHER = Space("3f9ac0d1e2b47785", 32), Space("77aa00bb11cc22dd", 32)
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)


def embed(labels: range, first_id: int, noise: float, seed: int, space: Space = SPACE) -> Embeddings:
    """Images of 60 classes as an encoder of that noise sees them; a model of another space turns the axes."""
    generator = np.random.default_rng(seed)
    turn = (
        np.eye(32) if space == SPACE else np.linalg.qr(np.random.default_rng(5).standard_normal((32, 32)))[0]
    )
    classes = np.array([label % 60 for label in labels], np.int64)
    content = np.random.default_rng(first_id).standard_normal((len(labels), 32))
    centres = np.random.default_rng(0).standard_normal((60, 32))
    vectors = (centres[classes] + 1.1 * content) @ turn + noise * generator.standard_normal(content.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Embeddings(vectors, first_id + np.arange(len(labels)), classes, space)


def sample(names: tuple[str, str, str] = ("anchor", "student", "student alone")) -> Report:
    """A report of random but realistic data, every part filled."""
    anchor, student, alone = names
    noise = {anchor: (0.0, SPACE), student: (0.7, SPACE), alone: (1.4, OTHER)}
    queries = {n: embed(range(600), 10_000, x, 1, space) for n, (x, space) in noise.items()}
    galleries = {n: embed(range(60), 0, x, 2, space) for n, (x, space) in noise.items()}
    cross = cross_evaluate(queries, galleries, across_spaces=True)

    def scores(query: str, gallery: str) -> PerQuery:
        return cross[query, gallery].per_query(RECALL_AT_1)

    def estimate(query: str, gallery: str) -> Estimate:
        return bootstrap(scores(query, gallery).values)

    return Report(
        title="omniglot, one drawer",
        created="2025-03-14",
        space=SPACE,
        environment={"machine": "2 cores, AVX-512", "torch": "2.9.0", "onnxruntime": "1.20.1", "seed": "0"},
        data={
            "source": "omniglot, evaluation alphabets",
            "queries": "600",
            "gallery": "60 images of 60 classes",
        },
        models=(
            ModelRow(name=anchor, role="anchor", macs=59_000_000, parameters=2_800_000, mac_ratio=1.0),
            ModelRow(name=student, role="student", macs=2_180_000, parameters=310_000, mac_ratio=27.1),
            ModelRow(name=alone, role="alone", macs=2_180_000, parameters=310_000, mac_ratio=27.1),
        ),
        headline=Headline(
            metric=RECALL_AT_1,
            paragon=estimate(anchor, anchor),
            asymmetric=estimate(student, anchor),
            symmetric=estimate(student, student),
            alone=estimate(alone, alone),
        ),
        criterion=compatibility_criterion(scores(student, anchor), scores(alone, alone)),
        retention=retention_interval(scores(student, anchor), scores(anchor, anchor)),
        versus=tuple(
            Versus(
                metric=RECALL_AT_1,
                other=other,
                comparison=paired_difference(scores(student, anchor), scores(*pair)),
            )
            for other, pair in {
                "its own gallery": (student, student),
                "the paragon": (anchor, anchor),
            }.items()
        ),
        matrices=(cross.matrix(RECALL_AT_1), cross.matrix(MAP)),
        parity=tuple(
            ParityRow(
                artefact=f"{student}-{precision}{suffix}",
                format=kind,
                precision=precision,
                cosine_distance_mean=distance,
                cosine_distance_median=distance / 2,
                max_abs_error=30 * distance,
                recall=Estimate(0.8, 0.75, 0.85),
                queries=600,
                negative_flips=round(9000 * distance),
                positive_flips=round(4000 * distance),
                cosine_distance_p99=4 * distance,
                cosine_distance_max=11 * distance,
                top1_identical=1 - 40 * distance,
                recall_delta=Estimate(-3 * distance, -9 * distance, 4 * distance),
                map_delta=Estimate(-2 * distance, -5 * distance, 1 * distance),
                top10_overlap=1 - 30 * distance,
            )
            for kind, suffix in (("ONNX", ".onnx"), ("LiteRT", ".tflite"))
            for precision, distance in (("fp32", 6e-8), ("int8", 9e-4))
        ),
        latency=tuple(
            LatencyRow(
                artefact=f"{student}-{precision}",
                device="this host",
                runtime=runtime,
                threads=1,
                p50_ms=p50,
                p90_ms=1.1 * p50,
                p95_ms=1.3 * p50,
                peak_mb=peak,
                size_kb=size,
            )
            for runtime, precision, p50, peak, size in (
                ("ONNX Runtime 1.20", "fp32", 0.61, 48.2, 1_263.0),
                ("ONNX Runtime 1.20", "int8", 0.37, 45.0, 402.0),
                ("LiteRT 2.1, XNNPACK", "fp32", 0.52, 31.7, 1_250.0),
                ("LiteRT 2.1, XNNPACK", "int8", 0.33, None, 377.0),
            )
        ),
        gates=(
            Gate.check("fp32 parity", 0.99999994, ">=", 0.9999, "cosine to torch, worst image"),
            Gate.check("int8 ΔRecall@1", -0.0027, ">=", -0.01, "points of asymmetric Recall@1 lost"),
            Gate.check("latency p90", 0.67, "<=", 0.5, "ms on this host, one thread, ONNX fp32"),
        ),
        figures=(Figure.of("A dot", "One black pixel", PNG),),
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return sample()


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_json_round_trip_is_exact_and_stable(report: Report, tmp_path: Path) -> None:
    reporting.write(report, tmp_path)
    assert reporting.read(tmp_path) == report
    assert reporting.read(tmp_path / "report.json") == report
    first = (tmp_path / "report.json").read_bytes()
    reporting.write(reporting.read(tmp_path), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]


def test_a_damaged_report_is_refused_in_one_line(report: Report, tmp_path: Path) -> None:
    for change, message in (
        ({"schema": 99}, "not a report of schema 3"),
        ({"gates": [{"name": "x"}]}, r"report is not understood: gates\.0\.passed: Field required"),
        ({"space": {"id": 3, "dim": "wide"}}, r"report is not understood: space\.id"),
    ):
        with pytest.raises(HeteroError, match=message) as caught:
            Report.from_json(json.loads(json.dumps(report.to_json() | change)))
        assert "\n" not in str(caught.value)
    with pytest.raises(HeteroError, match="does not exist"):
        reporting.read(tmp_path / "nothing.json")


def test_the_page_shows_every_number_with_its_side(report: Report) -> None:
    page = Page(html.render(report))
    assert report.headline is not None
    assert report.criterion is not None
    assert "The compatibility criterion holds" in page.text
    assert report.criterion.sentence in page.text
    assert "changes by" in page.text
    for row in report.versus:
        assert wording.points(row.comparison.difference) in page.text
    for estimate in (report.headline.paragon, report.headline.asymmetric, report.headline.alone):
        assert f"{100 * estimate.value:.1f}" in page.text
        assert f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}" in page.text
    spoken = [attributes.get("title") or "" for tag, attributes in page.tags if tag == "td"]
    for matrix in report.matrices:
        for query in matrix.queries:
            for gallery in matrix.galleries:
                cell = matrix.cell(query, gallery)
                assert cell is not None
                expected = f"query {query}, gallery {gallery}: {100 * cell.estimate.value:.1f}"
                assert any(text.startswith(expected) for text in spoken)
    assert sum(text.endswith("no shared space") for text in spoken) == 8
    assert page.text.count("✓ pass") == 2
    assert page.text.count("✗ fail") == 1
    assert "✗ a gate failed" in page.text


def test_the_page_is_self_contained_and_well_formed(report: Report) -> None:
    source = html.render(report)
    page = Page(source)
    assert page.open == []
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "srcset", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?:|url\(|@import", source)
    policies = [a.get("content") for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert "prefers-color-scheme: dark" in source
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_ids_in_the_page_are_unique_and_every_label_has_its_heading(report: Report) -> None:
    page = Page(html.render(report))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a} <= set(ids)
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")


def test_names_cannot_inject_markup() -> None:
    evil = '<script>alert("1")</script>', "student|`x`", "a\" onmouseover='y'"
    report = replace(sample(evil), title="<script>document.title</script>")
    page = Page(html.render(report))
    assert all(tag != "script" and "onmouseover" not in attributes for tag, attributes in page.tags)
    assert evil[0] in page.text
    text = markdown.render(report)
    assert "<script" not in text
    assert "student|" not in text
    assert text.count("student\\|\\`x\\`") > 10


def test_a_report_with_little_in_it_is_still_written(tmp_path: Path) -> None:
    little = Report(title="empty", created="2025-03-14", space=SPACE)
    reporting.write(little, tmp_path)
    assert "No compatibility criterion was tested" in (tmp_path / "report.md").read_text()
    assert Page((tmp_path / "report.html").read_text()).open == []
    assert reporting.read(tmp_path) == little


def test_nothing_is_left_behind_when_writing_fails(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.md").mkdir()
    with pytest.raises(OSError, match=r"report\.md"):
        reporting.write(report, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert Page((tmp_path / "report.html").read_text()).open == []


def test_markdown_holds_every_table_and_the_terminal_those_that_fit(report: Report) -> None:
    text = markdown.render(report)
    stream = io.StringIO()
    reporting.show(report, Console(file=stream, width=240, color_system=None))
    printed = stream.getvalue()
    for title in (
        "Gates",
        "What asymmetric search gains and loses",
        "Compatibility matrix: Recall@1",
        "Compatibility matrix: mAP",
        "Latency and size",
        "Models",
    ):
        assert f"## {title}\n" in text
    for title in ("Result: Recall@1", "Gates", "Exported artefacts"):
        assert title in printed
    for row in report.latency:
        assert row.runtime in text
    widths = {
        line.count(" | ") for line in text.split("## Gates")[1].split("##")[0].splitlines() if "pass" in line
    }
    assert widths == {4}
    assert "0.99999994" in printed  # not rounded to 1
    assert "-0.0 (" not in printed


def test_a_matrix_alone_is_printed_with_both_sides_named(report: Report) -> None:
    stream = io.StringIO()
    print_matrix(report.matrices[0], Console(file=stream, width=120, color_system=None))
    printed = stream.getvalue()
    assert "query ↓ gallery →" in printed
    assert printed.count("student alone") == 2
    assert printed.count("≠") == 5  # four cells and the note that explains them


def test_gates_decide_by_their_relation_and_never_pass_on_nan() -> None:
    assert Gate.check("a", 1.0, "<=", 1.0).passed
    assert not Gate.check("a", 1.0, "<", 1.0).passed
    assert Gate.check("a", 2.0, ">", 1.0).passed
    assert not Gate.check("a", float("nan"), "<=", 1.0).passed
    assert not Gate.check("a", float("nan"), ">=", 1.0).passed


def test_heat_map_text_is_readable_on_every_colour_and_darkness_grows() -> None:
    scale = [colours.scale(i / 100) for i in range(101)]
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in scale)
    assert min(colours.contrast(colours.ink(colour), colour) for colour in scale) >= 4.5
    luminance = [colours.contrast(colour, "#000000") for colour in scale]
    assert luminance == sorted(luminance, reverse=True)
    assert colours.contrast("#000000", "#ffffff") == pytest.approx(21)
