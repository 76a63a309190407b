"""A plan: in which order a gallery is re-embedded, what that was measured to bring, and what it costs.

PLAN/plan.json    spaces, order, curve, cost; order_sha256 binds it to
PLAN/order.npy    int64 [N], the gallery's ids, first to be re-embedded first
PLAN/curve.png    the curves, where they were measured
PLAN/migration/   what `hetero upgrade apply` keeps
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hetero.upgrades.backfill.cost import Cost
from hetero.upgrades.backfill.curve import Curve, CurveSummary
from hetero.upgrades.backfill.figure import curves_png
from hetero_devices.errors import DataError
from hetero_devices.files import atomic_directory, read_json, refuse_others, sha256_file, write_json
from hetero_devices.space import Space
from hetero_devices.space.embeddings import load_array
from hetero_devices.strict import decode

Ids = npt.NDArray[np.int64]
SCHEMA = 1


@dataclass(frozen=True)
class Plan:
    """See the module. curves: of every order that was measured, the chosen one first; none without a sample.

    sample: gallery rows and queries of the measurement. old_system: M(old, old) on it.
    cost: of the whole gallery. cost_needed: of the share that reaches the target, where one does.
    """

    schema: int
    old_space: Space
    new_space: Space
    rows: int
    order: str
    seed: int
    order_sha256: str
    merge: str | None = None
    sample: dict[str, int] | None = None
    old_system: float | None = None
    curves: tuple[CurveSummary, ...] = ()
    cost: Cost | None = None
    cost_needed: Cost | None = None

    @property
    def digest(self) -> str:
        """What a migration remembers: of the spaces and the order."""
        fields = f"{self.old_space} {self.new_space} {self.order_sha256}"
        return hashlib.sha256(fields.encode()).hexdigest()


def save_plan(folder: Path, plan: Plan, ids: Ids, curves: Sequence[Curve]) -> None:
    """Write the folder, whole or not at all; DataError as `check_plan_target`."""
    check_plan_target(folder)
    with atomic_directory(folder) as temporary:
        np.save(temporary / "order.npy", ids, allow_pickle=False)
        if curves:
            (temporary / "curve.png").write_bytes(curves_png(curves, plan.old_system))
        write_json(temporary / "plan.json", asdict(plan))


def check_plan_target(folder: Path) -> None:
    """Raise DataError where a migration of an earlier plan is going on, or `folder` is no plan, nor empty."""
    if (folder / "migration").exists():
        raise DataError(f"{folder} has a migration under way: write the new plan to another folder")
    refuse_others(folder, "plan.json", "a plan")


def load_plan(folder: Path) -> tuple[Plan, Ids]:
    """A plan and its ids in order; DataError in one line when it is missing, damaged or changed."""
    if not (folder / "plan.json").is_file():
        raise DataError(f"there is no plan in {folder}: make one with 'hetero upgrade plan'")
    plan = decode(Plan, read_json(folder / "plan.json"), "plan", DataError)
    if plan.schema != SCHEMA:
        raise DataError(f"{folder} is a plan of another version of hetero: plan again")
    ids = load_array(folder / "order.npy")
    if ids.dtype != np.int64 or ids.shape != (plan.rows,) or digest_of(ids) != plan.order_sha256:
        raise DataError(
            f"{folder / 'order.npy'} is not the order that plan.json was written with: plan again"
        )
    return plan, ids


def digest_of(ids: Ids) -> str:
    """SHA-256 of int64 ids in their order."""
    return hashlib.sha256(np.ascontiguousarray(ids).tobytes()).hexdigest()


def folder_digest(folder: Path) -> str:
    """SHA-256 over the files of an embeddings folder: what a migration knows its source by."""
    names = ("ids.npy", "labels.npy", "space.json", "vectors.npy")
    return hashlib.sha256("".join(sha256_file(folder / name) for name in names).encode()).hexdigest()
