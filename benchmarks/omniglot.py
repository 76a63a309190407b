"""The main job on Omniglot: paragon, student alone, and the compatible student as torch, ONNX and LiteRT.

Trains on the background alphabets, tests on unseen ones: 659 characters, a gallery of one drawer.
Writes results/omniglot.{json,md}. Killed at any moment, the same command continues.

    python benchmarks/omniglot.py --root DATA        about two hours on two cores
    python benchmarks/omniglot.py --root DATA --scale full   larger anchor, longer schedules, on a GPU
"""

from __future__ import annotations

import argparse
from pathlib import Path

import results
from hetero.recipes.recipe import Recipe
from hetero.recipes.resolve import resolve
from hetero.report import Report
from hetero.report.markdown import render
from hetero.retrieval import Matrix
from hetero.runs import Run
from hetero_export.loop import carry_out

FULL = (
    "anchor.network=residual-l",
    "anchor.fit.steps=60000",
    "anchor.fit.batch=256",
    "anchor.fit.device=cuda",
    "student.fit.steps=120000",
    "student.fit.batch=256",
    "student.fit.device=cuda",
    "student.fit.precision=bf16",
    "student.views=16",
)


def main() -> None:
    options = _options()
    recipe = _recipe(options.root, options.scale, options.seed)
    run = Run.open(results.WORK / _name(options), recipe)
    report, page = carry_out(run)
    command = f"python benchmarks/omniglot.py --scale {options.scale} --seed {options.seed}"
    fields = {"stamp": results.stamp(command, "Omniglot", recipe.seed), "report": report.to_json()}
    results.write(_name(options), fields, table(report))
    print(render(report))
    print(page)


def table(report: Report) -> str:
    """The asked-for rows: query model, gallery model, Recall@1 and mAP."""
    recall, precision = report.matrices[:2]
    student = next(model for model in report.models if model.role == "student")
    assert student.mac_ratio is not None
    assert report.criterion is not None
    artefacts = [name for name in recall.queries if name.startswith("student ")]
    pairs = [
        ("paragon", "anchor", "anchor"),
        ("student alone, symmetric", "alone", "alone"),
        ("student alone, asymmetric (chance)", "alone", "anchor"),
        *((f"{name}, symmetric", name, name) for name in ("student", *artefacts)),
        *((f"{name}, **asymmetric**", name, "anchor") for name in ("student", *artefacts)),
    ]
    rows = "\n".join(
        f"| {label} | {_cell(recall, q, g)} | {_cell(precision, q, g)} |" for label, q, g in pairs
    )
    return (
        "# Omniglot: one-drawer gallery of 659 unseen characters\n\n"
        f"The student takes {student.mac_ratio:.1f} times fewer multiply-accumulates than the anchor. "
        "Percent, with 95 % bootstrap intervals over classes; 'student' without a runtime is torch fp32.\n\n"
        "| query → gallery | Recall@1 | mAP |\n|---|---|---|\n"
        f"{rows}\n\n{report.criterion.sentence}\n\n{_parity(report)}\n{_gates(report)}"
    )


def _cell(matrix: Matrix, query: str, gallery: str) -> str:
    cell = matrix.cell(query, gallery)
    return "–" if cell is None else results.percent(cell.estimate)


def _parity(report: Report) -> str:
    latency = {row.artefact: row for row in report.latency}
    lines = [
        "| artefact | largest 1 − cosine | same first result | Δ asymmetric Recall@1, points | kB | p50 ms |",
        "|---|---|---|---|---|---|",
    ]
    for row in report.parity:
        change, cost = results.signed(row.recall_delta), latency[row.artefact]
        lines.append(
            f"| {row.artefact} | {row.cosine_distance_max:.1e} | {100 * row.top1_identical:.3f} % | {change} "
            f"| {cost.size_kb:.0f} | {cost.p50_ms:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _gates(report: Report) -> str:
    lines = ["| gate | result | measured | required |", "|---|---|---|---|"]
    for gate in report.gates:
        verdict = "pass" if gate.passed else "**FAIL**"
        lines.append(f"| {gate.name} | {verdict} | {gate.value:.6g} | {gate.relation} {gate.threshold:g} |")
    return "\n".join(lines) + "\n"


def _recipe(root: str | None, scale: str, seed: int) -> Recipe:
    overrides = (f"data.root={root}",) if root else ()
    return resolve("omniglot", [*overrides, f"seed={seed}", *(FULL if scale == "full" else ())])


def _name(options: argparse.Namespace) -> str:
    return (
        "omniglot"
        + ("-full" if options.scale == "full" else "")
        + (f"-seed{options.seed}" if options.seed else "")
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=lambda p: str(Path(p).resolve()), help="folder that holds omniglot/")
    parser.add_argument("--scale", choices=("default", "full"), default="default")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
