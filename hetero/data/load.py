"""One door to data: a name or a path in, splits out."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from hetero.data.cache import Decoded, decoded
from hetero.data.glyphs import GlyphRecipe, load_glyphs
from hetero.data.named import NAMED
from hetero.data.sources import open_source
from hetero.data.splits import Splits, by_column, class_disjoint
from hetero_devices.errors import DataError

NAMES = ("glyphs", *NAMED)


def load(
    name_or_path: str | Path,
    *,
    size: int,
    root: Path | None = None,
    base_url: str | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    group_pattern: str | None = None,
) -> Splits:
    """Train, validation and test sets of `size` x `size` pixels, decoded on first use.

    name_or_path: one of NAMES, or a path to your own data (see `open_source`): a `split` column or
    train/test folders are honoured, else half of the classes, shuffled by `seed`, become test classes.
    root, base_url: where the files of a named set lie or can be downloaded (else $HETERO_DATA_ROOT and
    $HETERO_DATA_URL). validation_share: of the training classes; 0 for an empty validation set.
    seed: also of the generated set. group_pattern: for your own data, see `open_source`.
    Raises DataError in one line for anything that cannot be used.
    """
    if name_or_path == "glyphs":
        return load_glyphs(GlyphRecipe(size=size, seed=seed), validation_share)
    if isinstance(name_or_path, str) and name_or_path in NAMED:
        return NAMED[name_or_path].load(size, root, base_url, validation_share)
    return _split(decoded(open_source(_existing(name_or_path), group_pattern), size), validation_share, seed)


def _split(own: Decoded, validation_share: float, seed: int) -> Splits:
    images = own.images
    designated = images.is_query is not None and images.is_gallery is not None
    protocol = "designated" if designated else "leave-one-out"
    if own.splits is not None:
        return by_column(images, own.splits, validation_share, protocol)
    return class_disjoint(images, validation_share=validation_share, seed=seed, protocol=protocol)


def _existing(name_or_path: str | Path) -> Path:
    path = Path(name_or_path).expanduser()
    if not path.exists():
        near = get_close_matches(str(name_or_path), NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the named sets are {', '.join(NAMES)}"
        raise DataError(f"no data at {name_or_path}: {hint}")
    return path
