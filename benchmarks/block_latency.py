"""Whether a table of measured blocks prices whole networks: predicted against measured latency on the host.

Random candidates of the elastic family (between elastic-xs and elastic-l, random weights), on both runtimes,
fp32 and int8, one thread. Every distinct block of all candidates is measured in a carrier (`hetero_export.
blocks`) and the candidates as a whole; overhead and scale of the table are fitted on candidates that are not
scored. Everything is measured in rounds, in shuffled order; a time is its fastest round's median.
Writes results/block_latency.{json,md,png}. Killed at any moment, the same command continues.

    python benchmarks/block_latency.py                     1-2 h on two cores
    python benchmarks/block_latency.py --candidates 8 --calibration 4 --results /tmp/try
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import results
from block_latency_plot import plot
from hetero.models.elastic import ElasticConfig
from hetero.search.blocks import Part, distinct, parts
from hetero.search.candidates import sample_distinct
from hetero_devices.bundle import Precision
from hetero_devices.devices import HostDevice
from hetero_devices.latency_model import Errors
from hetero_devices.latency_table import LatencyTable
from hetero_devices.runtimes import Format
from hetero_export.block_table import Bench, Measured, probes, table
from hetero_export.blocks import Probe

KINDS: tuple[tuple[Format, Precision], ...] = (
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("tflite", "fp32"),
    ("tflite", "int8"),
)
RESAMPLES = 5000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Network:
    """A candidate: its architecture, its parts and the model by which it is measured whole."""

    config: ElasticConfig
    parts: tuple[Part, ...]
    whole: Probe

    @classmethod
    def of(cls, config: ElasticConfig, size: int) -> Network:
        return cls(config, parts(config, size), Probe.whole(config, size))


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    count = options.calibration + options.candidates
    networks = [Network.of(config, options.size) for config in sample_distinct(count, options.seed)]
    before = os.getloadavg()
    kinds = {f"{f} {p}": _kind(f, p, networks, options) for f, p in KINDS}
    fields = {
        "stamp": results.stamp(_command(options), "noise images; random weights", options.seed),
        "size": options.size,
        "rounds": options.rounds,
        "load": {"before": before, "after": os.getloadavg()},
        "kinds": kinds,
    }
    page = markdown(fields)
    print(page)
    results.write("block_latency", fields, page, options.results)
    plot(options.results / "block_latency.png", kinds)


def _kind(
    format: Format, precision: Precision, networks: list[Network], options: argparse.Namespace
) -> dict[str, Any]:
    """Measure one format and precision and score its table."""
    found = distinct(network.parts for network in networks)
    bench = Bench(HostDevice(), options.work, format, precision, rounds=options.rounds)
    measured = bench.measure([*probes(found), *(network.whole for network in networks)])
    fitted, scored = networks[: options.calibration], networks[options.calibration :]
    raw = table(bench, found, measured)
    pairs = [(network.parts, measured.ms(network.whole)) for network in fitted]
    whole = raw.calibrated(pairs)
    part = _half(raw, options.seed).calibrated(pairs, interpolate=True)
    return {
        "blocks": len(found),
        "probes": len(measured.p50_ms),
        "rounds_spread": measured.spread(),
        "overhead_ms": whole.overhead_ms,
        "scale": whole.scale,
        "measured blocks": score(whole, scored, measured, options.seed),
        "uncalibrated": score(raw, scored, measured, options.seed),
        "half of the blocks interpolated": score(part, scored, measured, options.seed),
        "interpolation": {kind: asdict(e) for kind, e in raw.interpolation_errors().items()},
        "machine": measured.machine,
    }


def _half(raw: LatencyTable, seed: int) -> LatencyTable:
    """The table with a random half of its rows."""
    keys = sorted(raw.rows)
    kept = np.random.default_rng(seed).permutation(len(keys))[: (len(keys) + 1) // 2]
    return replace(raw, rows={keys[index]: raw.rows[keys[index]] for index in kept})


def score(prices: LatencyTable, networks: list[Network], measured: Measured, seed: int) -> dict[str, Any]:
    """Predictions of the networks beside their measurements, rank correlation and errors."""
    real = [measured.ms(network.whole) for network in networks]
    predicted = [prices.predict(network.parts, interpolate=True) for network in networks]
    return {
        "spearman": correlation(np.array(predicted), np.array(real), seed),
        "errors": asdict(Errors.of(predicted, real)),
        "networks": [
            {"network": n.whole.name, "predicted_ms": p, "measured_ms": m}
            for n, p, m in zip(networks, predicted, real, strict=True)
        ],
    }


def correlation(predicted: Floats, real: Floats, seed: int) -> dict[str, float]:
    """Spearman's coefficient with its 95 % percentile bootstrap interval over networks."""
    generator, count = np.random.default_rng(seed), len(real)
    draws = []
    for _ in range(RESAMPLES):
        rows = generator.integers(count, size=count)
        if len(set(rows.tolist())) > 1:
            draws.append(spearman(predicted[rows], real[rows]))
    low, high = np.quantile(draws, [0.025, 0.975]).tolist()
    return {"value": spearman(predicted, real), "low": low, "high": high}


def spearman(a: Floats, b: Floats) -> float:
    """Correlation of ranks; equal values share the mean of their ranks."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends: Floats = np.cumsum(counts).astype(np.float64)
    mean_ranks: Floats = ends - (counts - 1) / 2
    return mean_ranks[inverse]


ROWS = ("measured blocks", "uncalibrated", "half of the blocks interpolated")


def markdown(fields: dict[str, Any]) -> str:
    """A row for each format, precision and way of pricing."""
    kinds = fields["kinds"]
    first = next(iter(kinds.values()))
    count = len(first["measured blocks"]["networks"])
    lines = [
        "# Block latency",
        "",
        f"{count} random elastic candidates on {fields['size']} px, one thread, priced by the sum of their "
        f"{first['blocks']} distinct measured blocks and compared with their own p50 on the host "
        f"({fields['rounds']} rounds). Overhead and scale come from other candidates. Spearman with its "
        "bootstrap interval over candidates; errors are relative. 'Half interpolated': a random half of the "
        "blocks was hidden and priced by the cost model of the rest.",
        "",
        "| model | priced by | Spearman | median error | 90 % error | measured ms |",
        "|---|---|---|---|---|---|",
        *(_row(name, way, kind[way]) for name, kind in kinds.items() for way in ROWS),
        "",
        "Blocks the cost model was not fitted on (10-fold), and the calibration:",
        "",
        "| model | scale | overhead ms | stems | residuals | heads | spread of rounds |",
        "|---|---|---|---|---|---|---|",
        *(_model_row(name, kind) for name, kind in kinds.items()),
        "",
        f"Load average (1, 5, 15 min) before: {_numbers(fields['load']['before'])}, "
        f"after: {_numbers(fields['load']['after'])}.",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, way: str, scores: dict[str, Any]) -> str:
    rank, errors = scores["spearman"], scores["errors"]
    real = [network["measured_ms"] for network in scores["networks"]]
    return (
        f"| {name} | {way} | {rank['value']:.3f} [{rank['low']:.3f}, {rank['high']:.3f}] "
        f"| {100 * errors['median']:.1f} % | {100 * errors['p90']:.1f} % | {min(real):.3f}-{max(real):.3f} |"
    )


def _model_row(name: str, kind: dict[str, Any]) -> str:
    errors = kind["interpolation"]
    cells = [
        f"{100 * errors[part]['median']:.0f} % ({errors[part]['count']})" if part in errors else "-"
        for part in ("stem", "residual", "head")
    ]
    spread = f"{100 * kind['rounds_spread']:.0f} %"
    return f"| {name} | {kind['scale']:.3f} | {kind['overhead_ms']:.4f} | {' | '.join(cells)} | {spread} |"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def _command(options: argparse.Namespace) -> str:
    command = "python benchmarks/block_latency.py"
    for name in ("candidates", "calibration", "size", "rounds", "seed"):
        if getattr(options, name) != _parser().get_default(name):
            command += f" --{name} {getattr(options, name)}"
    return command


def _options() -> argparse.Namespace:
    options = _parser().parse_args()
    options.work /= f"{options.size}px"
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=32, help="scored networks")
    parser.add_argument("--calibration", type=int, default=8, help="networks that fit overhead and scale")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of everything")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=results.WORK / "block_latency")
    parser.add_argument("--results", type=Path, default=results.RESULTS)
    return parser


if __name__ == "__main__":
    main()
