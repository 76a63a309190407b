"""The cross-device report: models by runtimes, precisions and devices, from what the devices showed."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from hetero.recipes.recipe import GateConfig
from hetero.report import HOST, DeviceRun, Gate, ParityRow, Report
from hetero.report.pareto import pareto_figure
from hetero.retrieval import Evaluation, evaluate
from hetero.runs.bundle_gates import Search, float_reference
from hetero.runs.gates import gates
from hetero.runs.measuring import latency_row, placement_row
from hetero.runs.parity import parity_row
from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.devices.profile import Budget
from hetero_devices.space import Embeddings


@dataclass(frozen=True)
class Shown:
    """What one device showed; `found` has the query embeddings by model file, where there is a search."""

    runs: tuple[DeviceRun, ...]
    gates: tuple[Gate, ...]
    found: Mapping[str, Embeddings]


def measured_report(
    bundle: Bundle, answered: Mapping[str, Shown], budgets: Mapping[str, Budget], config: GateConfig
) -> Report:
    """What ran where and what it cost, with the gates on golden vectors, budgets and placement."""
    models = {model.file: model for model in bundle.manifest.models}
    runs = tuple(run for each in answered.values() for run in each.runs)
    latency = (latency_row(models[run.artefact], run.device, run.profile) for run in runs)
    found = (placement_row(models[run.artefact], run.device, run.profile) for run in runs)
    placement = tuple(filter(None, found))
    return Report(
        title=f"hetero: {bundle.manifest.name} on {', '.join(answered) or 'no device'}",
        created=datetime.datetime.now(datetime.UTC).date().isoformat(),
        space=bundle.manifest.space,
        runs=runs,
        latency=tuple(filter(None, latency)),
        placement=placement,
        gates=(
            *(gate for each in answered.values() for gate in each.gates),
            *(gate for run in runs for gate in _budget(run, models[run.artefact], budgets[run.device])),
            *gates(without_budgets(config), placement=placement),
        ),
    )


def without_budgets(config: GateConfig) -> GateConfig:
    """Without the recipe's own budgets, which are of this machine: a device has those of its profile."""
    none = dict.fromkeys(("latency_ms", "latency_ratio", "size_kb", "size_ratio"))
    return config.model_copy(update=none)


def _budget(run: DeviceRun, model: ModelFile, budget: Budget) -> Iterator[Gate]:
    profile = run.profile
    name = f"{run.artefact} on {run.device}"
    if budget.latency_ms is not None and profile.latency:
        yield Gate.check(f"{name}: median latency, ms", profile.latency.p50_ms, "<=", budget.latency_ms)
    if budget.memory_mb is not None and profile.peak_memory_mb is not None:
        yield Gate.check(f"{name}: peak memory, MB", profile.peak_memory_mb, "<=", budget.memory_mb)
    if budget.size_mb is not None:
        yield Gate.check(f"{name}: file, MB", model.bytes / 1e6, "<=", budget.size_mb)


def searched_report(
    report: Report,
    bundle: Bundle,
    search: Search,
    answered: Mapping[str, Shown],
    here: Mapping[str, Embeddings],
    config: GateConfig,
) -> Report:
    """The report with what the devices' queries find, against the float model and against this machine.

    here: by model file, the queries as this machine embeds them.
    """
    float_model, scored = float_reference(bundle, here, search), _Scored(search.gallery)
    models = {model.file: model for model in bundle.manifest.models}
    found = [(d, models[file], each) for d, shown in answered.items() for file, each in shown.found.items()]
    parity = tuple(scored.row(model, each, float_model, device) for device, model, each in found)
    drift = tuple(
        scored.row(model, each, here[model.file], device) for device, model, each in found if device != HOST
    )
    figure = pareto_figure(parity, report.runs)
    return replace(
        report,
        data={"queries": f"{len(search.images)} images", "gallery": f"{len(search.gallery)} vectors"},
        parity=parity,
        drift=drift,
        gates=(*report.gates, *gates(without_budgets(config), parity=parity, drift=drift)),
        figures=(figure,) if figure else (),
    )


class _Scored:
    """Parity rows against one gallery; each set of embeddings is searched once."""

    def __init__(self, gallery: Embeddings) -> None:
        self._gallery = gallery
        self._evaluations: dict[int, Evaluation] = {}

    def row(self, model: ModelFile, found: Embeddings, reference: Embeddings, device: str) -> ParityRow:
        evaluations = (self._evaluated(found), self._evaluated(reference))
        return parity_row(model, (found, reference), self._gallery, evaluations, device)

    def _evaluated(self, query: Embeddings) -> Evaluation:
        if id(query) not in self._evaluations:  # the caller keeps every set alive, so ids stay unique
            self._evaluations[id(query)] = evaluate(query, self._gallery)
        return self._evaluations[id(query)]
