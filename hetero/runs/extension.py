"""A student whose space extends the anchor's: its first dimensions answer in the old gallery.

The extra dimensions hold what the old space has no room for, so the new gallery gives up less (BCT, Shen
et al., CVPR 2020, in its official code; also BT2, Zhou et al., ICCV 2023). The student lives in a space of
its own; a link of kind `prefix`, kept beside it, leads from there into the anchor's space, for queries in the
old gallery.
"""

from __future__ import annotations

from hetero.models.encoder import embed
from hetero.runs.run import Run
from hetero.upgrades.links import Link, fit_link
from hetero.upgrades.links.prefix import Prefix
from hetero_devices.errors import RecipeError

LINK = "anchor.link"


def link_to_anchor(run: Run) -> Link:
    """The link from an extended student into the anchor's space, in RUN/student/anchor.link; made once.

    Its `fitted.cosine` is the mean over held-out training images. Trains what is not there yet.
    RecipeError for a student that is not extended.
    """
    if run.recipe.student.dimension != "extended":
        raise RecipeError(f"the student of {run.folder} lives in the anchor's space: it needs no link")
    student, path = run.student, run.folder / "student" / LINK
    if not path.exists():
        train = run.splits.train
        new, old = embed(student.encoder, train), run.anchor.embed("train", train)
        fit_link(Prefix(), new, old, side="query", seed=run.recipe.seed).save(path)
    return Link.load(path)
