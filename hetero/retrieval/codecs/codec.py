"""What a codec is, and the codecs by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hetero.retrieval.codecs.product import check_parts, fit_product
from hetero.retrieval.codecs.scalar import Binary, Codes, Float16, Int8, Vectors
from hetero_devices.errors import DataError

PLAIN: Mapping[str, Callable[[int], Float16 | Int8 | Binary]] = {
    "float16": Float16,
    "int8": Int8,
    "binary": Binary,
}
PRODUCT = re.compile(r"(o?)pq([1-9][0-9]{0,3})")
_KNOWN = f"{', '.join(PLAIN)}, pqBYTES or opqBYTES, such as pq16"


class Codec(Protocol):
    """Vectors of one dimension <-> codes, row by row.

    A code is `code_length` numbers of `code_dtype`. tables: what was learnt, name -> float32 array.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def code_length(self) -> int: ...

    @property
    def code_dtype(self) -> type[Any]: ...

    def encode(self, vectors: Vectors) -> Codes:
        """float32 [N, D] -> [N, code_length]."""
        ...

    def decode(self, codes: Codes) -> Vectors:
        """[N, code_length] -> float32 [N, D] of unit length."""
        ...

    def tables(self) -> Mapping[str, Vectors]: ...


def check_name(name: str, dim: int | None = None) -> None:
    """Raise DataError unless `name` is a codec, and one for vectors of `dim` where that is given."""
    product = PRODUCT.fullmatch(name)
    if name not in PLAIN and not product:
        raise DataError(f"there is no codec {name!r}: known are {_KNOWN}")
    if product and dim is not None:
        check_parts(name, int(product[2]), dim)


def codec(name: str, dim: int, training: Callable[[], Vectors]) -> Codec:
    """The named codec for vectors of `dim`; `training` gives vectors [N, D] to learn from, if it learns.

    `training` must never return queries. Raises DataError for an unknown name or unusable training vectors,
    MissingExtra when it learns by a library that is not installed.
    """
    check_name(name, dim)
    if name in PLAIN:
        return PLAIN[name](dim)
    product = PRODUCT.fullmatch(name)
    assert product is not None  # check_name
    return fit_product(name, int(product[2]), training(), rotate=bool(product[1]))
