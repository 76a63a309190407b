"""One bundle on many devices: is it the same model there, does it still find, and what does it cost?"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hetero.recipes.recipe import GateConfig, MeasureConfig
from hetero.report import HOST, DeviceRun, Gate, Report
from hetero.runs.bundle_gates import Search
from hetero.runs.device_report import Shown, measured_report, searched_report
from hetero.runs.measuring import EVERYTHING, stopping_of
from hetero_devices.bench import profile_bundle
from hetero_devices.bundle import Bundle, ModelFile
from hetero_devices.devices import Device, HostDevice, embed, embed_in_shards
from hetero_devices.devices.profile import Budget
from hetero_devices.errors import BundleError, DeviceError, MissingExtra
from hetero_devices.space import Embeddings, check_same
from hetero_devices.verify import compare

WORK = "work"

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Target:
    """A device to bench on: what it may cost there, and the formats its runtimes execute."""

    device: Device
    budget: Budget = field(default_factory=Budget)
    formats: tuple[str, ...] = ("onnx", "tflite")


@dataclass(frozen=True)
class Outcome:
    """The report of the devices that answered, and device -> the line that says why another did not."""

    report: Report
    failures: Mapping[str, str]


def bench(
    bundle: Bundle,
    targets: Sequence[Target],
    folder: Path,
    *,
    search: Search | None = None,
    models: Sequence[ModelFile] | None = None,
    config: GateConfig | None = None,
    measuring: MeasureConfig | None = None,
    advance: Advance = lambda count: None,
) -> Outcome:
    """Run `models` (default: all) of a bundle on every target, search with what comes back, and measure.

    On each device a model first embeds the golden images; where they differ from the golden vectors its gate
    fails and no query is sent. Retrieval and flips are against the float model and against the same file on
    this machine. Finished shards stay in FOLDER/work until every device has answered, so the same call
    continues after a kill. advance: called with the number of query images embedded.
    Raises SpaceMismatch, BundleError or DataError when bundle, gallery and queries do not fit.
    """
    chosen = tuple(models if models is not None else bundle.manifest.models)
    if search:
        check_same(
            bundle.manifest.space, search.gallery.space, f"bundle {bundle.manifest.name}", "the gallery"
        )
    job = _Job(bundle, search, folder / WORK, measuring or MeasureConfig(), advance)
    answered: dict[str, Shown] = {}
    failures: dict[str, str] = {}
    for target in targets:
        try:
            answered[target.device.name] = job.on(target, chosen)
        except (DeviceError, MissingExtra) as error:
            failures[target.device.name] = str(error)
    budgets = {target.device.name: target.budget for target in targets}
    report = measured_report(bundle, answered, budgets, config or GateConfig())
    if search:
        here = job.here(answered)
        report = searched_report(report, bundle, search, answered, here, config or GateConfig())
    if not failures:
        shutil.rmtree(folder / WORK, ignore_errors=True)
    return Outcome(report, failures)


@dataclass(frozen=True)
class _Job:
    bundle: Bundle
    search: Search | None
    work: Path
    measuring: MeasureConfig
    advance: Advance

    def on(self, target: Target, models: Sequence[ModelFile]) -> Shown:
        """Golden vectors, queries and measurements of every model the device can run."""
        mine = [model for model in models if model.format in target.formats]
        if not mine:
            raise BundleError(
                f"device {target.device.name} runs {', '.join(target.formats)}: the bundle has no such model"
            )
        golden = {model.file: self._golden(target.device, model) for model in mine}
        sound = [model for model in mine if golden[model.file].passed]
        found = {model.file: self.embedded(target.device, model) for model in sound} if self.search else {}
        return Shown(self._measured(target.device, sound), tuple(golden.values()), found)

    def embedded(self, device: Device, model: ModelFile) -> Embeddings:
        """The query images, embedded on the device."""
        assert self.search is not None
        images, threads = self.search.images, self.measuring.threads
        result = embed_in_shards(
            device,
            self.bundle.path(model),
            images.images,
            self.work,
            threads=threads,
            advance=self.advance,
        )
        assert result.embeddings is not None
        return Embeddings(result.embeddings, images.ids, images.labels, self.bundle.manifest.space)

    def here(self, answered: Mapping[str, Shown]) -> dict[str, Embeddings]:
        """By model file, the queries embedded on this machine, which devices are held to."""
        assert self.search is not None
        files = {file for shown in answered.values() for file in shown.found}
        found = dict(answered[HOST].found) if HOST in answered else {}
        for model in self.bundle.manifest.models:
            reference = model.precision == "fp32" and self.search.reference is None
            if (model.file in files or reference) and model.file not in found:
                found[model.file] = self.embedded(HostDevice(), model)
        return found

    def _golden(self, device: Device, model: ModelFile) -> Gate:
        vectors, profile = embed(device, self.bundle.path(model), self.bundle.golden_images())
        checks = compare(model, vectors, self.bundle.golden_vectors(), profile)
        parity = checks[-1]
        failed = next((check for check in checks if not check.passed), parity)
        name = f"{model.file} on {device.name}: golden vectors"
        if failed.value is None or failed.threshold is None:
            return Gate.check(name, float("nan"), "<=", model.tolerance, failed.detail)
        return Gate.check(name, failed.value, "<=", failed.threshold, failed.detail)

    def _measured(self, device: Device, models: Sequence[ModelFile]) -> tuple[DeviceRun, ...]:
        if not models:
            return ()
        profiles = profile_bundle(
            device,
            self.bundle,
            threads=self.measuring.threads,
            stopping=stopping_of(self.measuring),
            models=models,
            tasks=EVERYTHING,
            repeats=self.measuring.repeats,
            cpus=self.measuring.cpus,
        )
        return tuple(
            DeviceRun(artefact=model.file, device=device.name, profile=profiles[model.file])
            for model in models
        )
