"""The kinds of search spaces a recipe may name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from hetero.search.elastic_space import ElasticSpace, ElasticSpaceConfig
from hetero.search.listed import ListedSpace, ListedSpaceConfig
from hetero.search.shuffle_space import ShuffleSpace, ShuffleSpaceConfig
from hetero.search.space import SearchSpace

SpaceConfig = Annotated[
    ElasticSpaceConfig | ShuffleSpaceConfig | ListedSpaceConfig, Field(discriminator="kind")
]


def open_space(config: SpaceConfig, dim: int) -> SearchSpace:
    """The space whose candidates return vectors of `dim` numbers."""
    sized = config.model_copy(update={"dim": dim})
    match sized:
        case ElasticSpaceConfig():
            return ElasticSpace(sized)
        case ShuffleSpaceConfig():
            return ShuffleSpace(sized)
        case ListedSpaceConfig():
            return ListedSpace(sized)


def filled(fields: dict[str, Any]) -> dict[str, Any]:
    """All fields of a space of which some are given; where they make none, as they are: refused later."""
    try:
        space: SpaceConfig = TypeAdapter(SpaceConfig).validate_python({"kind": "elastic", **fields})
    except ValidationError:
        return fields
    return space.model_dump(mode="json")
