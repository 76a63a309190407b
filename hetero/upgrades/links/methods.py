"""All methods of linking. To add one, write its file and list it here."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, get_args

from pydantic import Field

from hetero.upgrades.links.affine import Affine
from hetero.upgrades.links.fct import Fct
from hetero.upgrades.links.method import Method
from hetero.upgrades.links.mlp import Mlp
from hetero.upgrades.links.orthogonal import LambdaOrthogonal
from hetero.upgrades.links.prefix import Prefix
from hetero.upgrades.links.procrustes import Procrustes
from hetero.upgrades.links.slerp import Slerp
from hetero_devices.errors import RecipeError

AnyMethod = Procrustes | Affine | LambdaOrthogonal | Mlp | Fct | Slerp | Prefix
LinkMethod = Annotated[AnyMethod, Field(discriminator="kind")]

METHODS: dict[str, type[Method]] = {
    str(method.model_fields["kind"].default): method for method in get_args(AnyMethod)
}


def method_named(kind: str) -> Method:
    """The method with its default constants; RecipeError names the nearest one otherwise."""
    if kind not in METHODS:
        near = get_close_matches(kind, METHODS, n=1, cutoff=0)
        raise RecipeError(
            f"there is no link {kind!r}; the nearest is {near[0]!r} (known: {', '.join(METHODS)})"
        )
    return METHODS[kind](kind=kind)
