"""Backfilling: what each order brings, and a Milvus migration of 100,000 vectors that is killed three times.

Curves. A small old model (elastic-xs, a short training) and a larger new one (residual-s) on Omniglot (unseen
alphabets) and Caltech-101 (classes 50-99). The new model is trained twice: towards the old one by the
library's default for upgrades (one space: old and new vectors in one index), and alone (two spaces: two
searches, merged by quantile or calibrated score). Gallery: every test image. Half of a sample of queries is
the log of the order `traffic`, the other half is scored. No order is chosen here: every one is shown on test
classes.

Migration. Random vectors in a Milvus Lite file; `hetero upgrade apply` is killed by SIGKILL after about a
quarter, half and three quarters, then completed, compared row by row, and rolled back.

Writes results/backfill*.{json,md,png}. Trainings, curves and the migration are kept in work/, so that the
same command continues after a kill.

    python benchmarks/backfill.py --root DATA                       sized for two cores
    python benchmarks/backfill.py --root DATA --scale full --device cuda --seeds 5
    python benchmarks/backfill.py --only migration                  no data, no training
    python benchmarks/backfill.py --root DATA --scale trial         a few steps: does it run?
"""

from __future__ import annotations

import argparse
from typing import Any

import backfill_curves
import backfill_migration
import results
import sharing

_PARTS = ("curves", "migration")
_SEEDS = {"default": 3, "full": 5, "trial": 1}
_VECTORS = {"default": 100_000, "full": 100_000, "trial": 3_000}


def main() -> None:
    options = _options()
    pages, fields = [__doc__.split("\n")[0] + "\n"] if __doc__ else [], {}
    if "curves" in options.only:
        page, fields["curves"] = backfill_curves.carry_out(options)
        pages.append(page)
    if "migration" in options.only:
        folder = results.WORK / "backfill" / f"migration-{options.scale}"
        page, fields["migration"] = backfill_migration.carry_out(folder, _VECTORS[options.scale])
        pages.append(page)
    _write(options, fields, "\n".join(pages))


def _write(options: argparse.Namespace, fields: dict[str, Any], page: str) -> None:
    whole = options.only == list(_PARTS)
    command = f"python benchmarks/backfill.py --scale {options.scale} --seeds {options.seeds}"
    command += "" if whole else f" --only {' '.join(options.only)}"
    command += "" if "curves" not in options.only else f" --data {' '.join(options.data)}"
    data = ", ".join(options.data) if "curves" in options.only else "random vectors"
    name = "backfill" if whole else f"backfill_{'_'.join(options.only)}"
    fields = fields | {"stamp": results.stamp(command, data, 0)}
    folder = results.WORK / "backfill" / "trial" if options.scale == "trial" else results.RESULTS
    results.write(name, fields, page, folder)
    print(page)


def _options() -> argparse.Namespace:
    parser = sharing.parser(__doc__, _SEEDS, backfill_curves.DATA)
    sharing.trainings(parser)
    parser.set_defaults(seeds=None)  # of the scale
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS))
    options = parser.parse_args()
    options.seeds = options.seeds or _SEEDS[options.scale]
    return options


if __name__ == "__main__":
    main()
