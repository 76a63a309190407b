"""The tables that stand devices side by side."""

from __future__ import annotations

from hetero.report import wording
from hetero.report.model import DeviceRun, ParityRow, Report
from hetero.report.table import Table, Text, Tone, row_of
from hetero_devices.devices import Profile


def devices(report: Report) -> Table:
    """One line for each artefact on each device: what it finds, how far it drifted, what it costs."""
    searched = {(row.artefact, row.device): row for row in report.parity}
    drifted = {(row.artefact, row.device): row for row in report.drift}
    rows = tuple(
        (
            *row_of(f"{run.artefact} on {run.device}"),
            *_found(searched.get((run.artefact, run.device))),
            *_flips(drifted.get((run.artefact, run.device))),
            *_cost(run),
        )
        for run in report.runs
    )
    note = (
        "Searching the anchor's gallery. Δ and 1 − cosine: against the float32 reference. Device flips: "
        "queries answered right by the same file on this machine and wrong there, and the reverse. "
        "Emulated processors have no times."
    )
    searching = ("Recall@1 %", "Δ Recall@1, points", "1 − cosine: median", "max", "device flips − / +")
    return Table("Devices", note, ("artefact", *searching, "p50 ms", "p90 ms", "peak MB"), rows)


def devices_in_short(report: Report) -> Table:
    """`devices` in the width of a terminal."""
    searched = {(row.artefact, row.device): row for row in report.parity}
    drifted = {(row.artefact, row.device): row for row in report.drift}
    rows = []
    for run in report.runs:
        row = searched.get((run.artefact, run.device))
        numbers = (wording.percent(row.recall.value), wording.points(row.recall_delta)) if row else None
        rows.append(
            (
                *row_of(run.artefact.removeprefix("model."), run.device, *(numbers or [wording.NONE] * 2)),
                *_flips(drifted.get((run.artefact, run.device))),
                _cost(run)[0],
            )
        )
    columns = ("model", "device", "R@1 %", "Δ points", "flips − / +", "p50 ms")
    return Table("Searching the anchor's gallery from each device", "", columns, tuple(rows))


def _found(row: ParityRow | None) -> tuple[Text, ...]:
    if row is None:
        return row_of(*[wording.NONE] * 4)
    cosine = (f"{row.cosine_distance_median:.1e}", f"{row.cosine_distance_max:.1e}")
    return row_of(wording.scored(row.recall), wording.points(row.recall_delta), *cosine)


def _flips(row: ParityRow | None) -> tuple[Text, ...]:
    if row is None:
        return row_of(wording.NONE)
    tone: Tone = "bad" if row.negative_flips else "plain"
    return (Text(f"{row.negative_flips} / {row.positive_flips}", tone),)


def _cost(run: DeviceRun) -> tuple[Text, ...]:
    profile = run.profile
    if profile.emulated:
        return row_of("emulated", wording.NONE, wording.NONE)
    times = (profile.latency.p50_ms, profile.latency.p90_ms) if profile.latency else (None, None)
    return row_of(*map(wording.quantity, (*times, profile.peak_memory_mb)))


def drift(report: Report) -> Table:
    """What the device alone changes."""
    rows = tuple(
        row_of(
            f"{row.artefact} on {row.device}",
            f"{row.cosine_distance_median:.1e}",
            f"{row.cosine_distance_p99:.1e}",
            f"{row.cosine_distance_max:.1e}",
            f"{row.max_abs_error:.1e}",
            wording.percent(row.top1_identical, 2),
            str(row.negative_flips),
            str(row.positive_flips),
        )
        for row in report.drift
    )
    columns = ("1 − cosine: median", "p99", "max", "max |error|", "top-1 identical %", "flips −", "flips +")
    return Table(
        "What the device changes",
        "Each artefact against the same file on this machine. An error of 0 means the same bits.",
        ("artefact", *columns),
        rows,
    )


def runs(report: Report) -> Table:
    """The record beside the numbers: processor, kernels, and the state of the machine."""
    rows = tuple(
        row_of(
            f"{run.artefact} on {run.device}",
            f"{run.profile.runtime['runtime']} {run.profile.runtime.get('version') or ''}".strip(),
            _kernels(run),
            run.profile.cpu.model or run.profile.cpu.machine,
            " ".join(run.profile.cpu.flags or ()) or wording.NONE,
            str(run.profile.threads),
            run.profile.cpu.governor or wording.NONE,
            _condition(run.profile),
            _spread(run.profile),
            wording.quantity(run.profile.energy_mj),
        )
        for run in report.runs
    )
    columns = (
        "runtime",
        "kernels",
        "processor",
        "flags",
        "threads",
        "governor",
        "°C, MHz: before → after",
        "spread of p50",
    )
    return Table("Device runs", "", ("artefact", *columns, "mJ an inference"), rows)


def _kernels(run: DeviceRun) -> str:
    partitions = run.profile.runtime.get("xnnpack_partitions")
    if partitions is None:
        return "the runtime's"
    return f"XNNPACK, {partitions} partitions" if partitions else "builtin, no XNNPACK"


def _condition(profile: Profile) -> str:
    before, after = profile.before, profile.after
    pairs = ((before.temperature_c, after.temperature_c), (before.clock_mhz, after.clock_mhz))
    told = [f"{wording.quantity(a)} → {wording.quantity(b)}" for a, b in pairs if b is not None]
    return ", ".join(told + (["throttled"] if profile.throttled else [])) or wording.NONE


def _spread(profile: Profile) -> str:
    """Of the median over repeats: (largest - smallest) / median."""
    latency = profile.latency
    if latency is None or latency.spread is None:
        return wording.NONE
    return f"{wording.percent(latency.spread, 0)} % of {latency.repeats}"
