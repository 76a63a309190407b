"""From a run and its bundle to a report: the last step of the loop, on the exported artefacts."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Literal

from hetero.models.cost import Cost
from hetero.recipes.recipe import Recipe
from hetero.report import Figure, GalleryRow, Headline, ModelRow, ParityRow, Report, Versus
from hetero.report.examples import examples_figure
from hetero.retrieval import (
    MAP,
    MAP_AT_R,
    RECALL_AT_1,
    Comparison,
    Criterion,
    CrossEvaluation,
    Estimate,
    Matrix,
    compatibility_criterion,
    cross_evaluate,
    paired_difference,
    retention_interval,
    search,
)
from hetero.retrieval.codecs import Compressed, decoded
from hetero.runs.galleries import compressed_galleries, gallery_row
from hetero.runs.gates import gates
from hetero.runs.measuring import measure
from hetero.runs.parity import parity_row
from hetero.runs.run import Run
from hetero.runs.sides import ALONE, ANCHOR, STUDENT, Sides, all_sides, artefact_name
from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.devices import Device, HostDevice
from hetero_devices.files import read_json
from hetero_devices.space import Embeddings
from hetero_devices.verify import verify


def evaluate(run: Run, bundle: Bundle, device: Device | None = None) -> Report:
    """Everything a report says: matrix, criterion, parity, latency, placement, galleries and gates.

    The artefacts run on `device` (default: this host, in processes without torch). Intervals resample
    classes, since queries of one class share gallery images.
    """
    device, models = device or HostDevice(), bundle.manifest.models
    sides = all_sides(run, bundle, device)
    compressed = compressed_galleries(run, sides[ANCHOR].gallery)
    crossed = cross(sides, {name: decoded(each) for name, each in compressed.items()})
    parity = tuple(_parity(model, sides, crossed) for model in models)
    latency, placement = measure(bundle, models, run.recipe.measure, device)
    criterion = _criterion(crossed) if ALONE in sides else None
    matrices = tuple(crossed.matrix(metric, by_class=True) for metric in (RECALL_AT_1, MAP, MAP_AT_R))
    return Report(
        title=f"hetero: {run.recipe.name}",
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        space=run.anchor.space,
        environment=_environment(run),
        data=_data(run),
        recipe=_portable(run.recipe),
        models=_models(run),
        headline=_headline(matrices[0]) if ALONE in sides else None,
        criterion=criterion,
        retention=_retention(crossed),
        versus=_versus(crossed, sides),
        matrices=matrices,
        parity=parity,
        latency=latency,
        placement=placement,
        galleries=_galleries(compressed, crossed, list(sides)[-1]),
        gates=gates(
            run.recipe.gates,
            checks=verify(bundle.root, device),
            parity=parity,
            models=models,
            latency=latency,
            placement=placement,
            criterion=criterion,
        ),
        figures=(_examples(run, sides),),
    )


def cross(sides: Mapping[str, Sides], compressed: Mapping[str, Embeddings] | None = None) -> CrossEvaluation:
    """Every model as query against every model's gallery and the compressed ones.

    Pairs of different spaces are marked.
    """
    queries = {name: side.query for name, side in sides.items()}
    galleries = {name: side.gallery for name, side in sides.items()} | dict(compressed or {})
    return cross_evaluate(queries, galleries, across_spaces=True)


def _parity(model: ModelFile, sides: Mapping[str, Sides], crossed: CrossEvaluation) -> ParityRow:
    name = artefact_name(model)
    return parity_row(
        model,
        (sides[name].query, sides[STUDENT].query),
        sides[ANCHOR].gallery,
        (crossed[name, ANCHOR], crossed[STUDENT, ANCHOR]),
    )


def _galleries(
    compressed: Mapping[str, Compressed], crossed: CrossEvaluation, phone: str
) -> tuple[GalleryRow, ...]:
    """The anchor, the student and the last artefact, each against each compressed gallery."""
    return tuple(
        gallery_row(each, query, crossed[query, name], crossed[query, ANCHOR])
        for name, each in compressed.items()
        for query in (ANCHOR, STUDENT, phone)
    )


def _criterion(crossed: CrossEvaluation) -> Criterion:
    asymmetric = crossed[STUDENT, ANCHOR].per_query(RECALL_AT_1)
    baseline = crossed[ALONE, ALONE].per_query(RECALL_AT_1)
    return compatibility_criterion(asymmetric, baseline, clusters=asymmetric.labels)


def _retention(crossed: CrossEvaluation) -> Estimate:
    asymmetric = crossed[STUDENT, ANCHOR].per_query(RECALL_AT_1)
    paragon = crossed[ANCHOR, ANCHOR].per_query(RECALL_AT_1)
    return retention_interval(asymmetric, paragon, clusters=asymmetric.labels)


def _versus(crossed: CrossEvaluation, sides: Mapping[str, Sides]) -> tuple[Versus, ...]:
    """Asymmetric search against what the student finds in its own gallery, the paragon, and the control."""
    others = {"its own gallery": (STUDENT, STUDENT), "the paragon": (ANCHOR, ANCHOR)}
    if ALONE in sides:
        others["trained alone"] = (ALONE, ALONE)
    return tuple(
        Versus(metric=metric, other=name, comparison=_against(crossed, metric, pair))
        for name, pair in others.items()
        for metric in (RECALL_AT_1, MAP)
    )


def _against(crossed: CrossEvaluation, metric: str, pair: tuple[str, str]) -> Comparison:
    asymmetric, other = (crossed[q, g].per_query(metric) for q, g in ((STUDENT, ANCHOR), pair))
    return paired_difference(asymmetric, other, clusters=asymmetric.labels)


def _headline(matrix: Matrix) -> Headline:
    def score(query: str, gallery: str) -> Estimate:
        cell = matrix.cell(query, gallery)
        assert cell is not None  # one dimension throughout a run
        return cell.estimate

    return Headline(
        metric=matrix.metric,
        paragon=score(ANCHOR, ANCHOR),
        asymmetric=score(STUDENT, ANCHOR),
        symmetric=score(STUDENT, STUDENT),
        alone=score(ALONE, ALONE),
    )


def _models(run: Run) -> tuple[ModelRow, ...]:
    rows = [_model_row(ANCHOR, "anchor", run.anchor.cost, run.anchor.cost)]
    rows.append(_model_row(STUDENT, "student", run.student.cost, run.anchor.cost))
    if run.recipe.student.alone:
        rows.append(_model_row(ALONE, "alone", run.alone.cost, run.anchor.cost))
    return tuple(rows)


def _model_row(
    name: str, role: Literal["anchor", "student", "alone"], cost: Cost | None, anchor: Cost | None
) -> ModelRow:
    if cost is None:
        return ModelRow(name=name, role=role)
    ratio = anchor.macs / cost.macs if anchor else None
    return ModelRow(name=name, role=role, macs=cost.macs, parameters=cost.parameters, mac_ratio=ratio)


def _environment(run: Run) -> dict[str, str]:
    fields = read_json(run.folder / "environment.json")
    packages = fields.pop("packages")
    return {k: str(v) for k, v in fields.items()} | {k: str(v) for k, v in packages.items()}


def _data(run: Run) -> dict[str, str]:
    splits = run.splits
    return {
        "source": run.recipe.data.source,
        "training": f"{len(splits.train)} images of {len(splits.train.class_names)} classes",
        "test": f"{len(splits.test)} images of {len(splits.test.class_names)} other classes",
        "protocol": run.test.description,
        "image size": f"{run.recipe.data.size} px",
        "seed": str(run.recipe.seed),
    }


def _portable(recipe: Recipe) -> dict[str, Any]:
    """The recipe without the paths of this machine."""
    return recipe.model_dump(mode="json", exclude={"data": {"root", "base_url"}})


def _examples(run: Run, sides: Mapping[str, Sides]) -> Figure:
    phone = list(sides)[-1]
    hits = search(sides[phone].query, sides[ANCHOR].gallery, 5)
    return examples_figure(
        f"What {phone} finds in the anchor's gallery", run.test.query, run.test.gallery, hits
    )
