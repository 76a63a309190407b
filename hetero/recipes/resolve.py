"""From what the user wrote, a name or a YAML file and key=value pairs, to a validated recipe."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from hetero.config import Config
from hetero.models.build import named
from hetero.objectives.terms import TERMS, name_of
from hetero.quantisation.config import QuantisedConfig
from hetero.recipes.builtin import builtin
from hetero.recipes.recipe import Recipe
from hetero.search.spaces import filled
from hetero_devices.errors import RecipeError

C = TypeVar("C", bound=Config)


def resolve(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """A built-in name or a YAML file's path, changed by `a.b.c=value` pairs (values are YAML).

    A YAML file may start from a built-in one by the key `extends`. Raises RecipeError naming the key
    and, for an unknown key, the nearest valid one.
    """
    fields = _from_file(Path(source)) if source.endswith((".yaml", ".yml")) else _fields(builtin(source))
    for pair in overrides:
        _override(fields, pair)
    return validated(fields)


def overridden(recipe: Recipe, overrides: Sequence[str], section: str) -> Recipe:
    """The recipe changed by pairs that may only reach into one section; RecipeError as `resolve`."""
    fields = _fields(recipe)
    for pair in overrides:
        if not pair.startswith(f"{section}."):
            raise RecipeError(
                f"override {pair!r} is not of {section}: here only {section}.KEY=VALUE is changed"
            )
        _override(fields, pair)
    return validated(fields)


def validated(fields: dict[str, Any]) -> Recipe:
    """Plain fields -> recipe; RecipeError in one line."""
    return _validated(Recipe, fields)


def changed(config: C, overrides: Sequence[str]) -> C:
    """Any configuration changed by `a.b.c=value` pairs; errors as `resolve`."""
    fields = config.model_dump(mode="json")
    for pair in overrides:
        _override(fields, pair)
    return _validated(type(config), fields)


def _validated(kind: type[C], fields: dict[str, Any]) -> C:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = _key(first["loc"])
        if first["type"] == "extra_forbidden":
            raise RecipeError(f"the recipe has no key {where!r}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise RecipeError(
            f"recipe key {where or 'recipe'!r}: {message} (got {str(first['input'])[:60]!r})"
        ) from None


_TAGS = {
    "elastic",
    "shuffle",
    "residual",
    "timm",
    "listed",
    *map(name_of, TERMS),
}  # union tags in pydantic's paths


def _key(location: tuple[int | str, ...]) -> str:
    """The dotted key of pydantic's path, without the tags it adds below a union."""
    above = (None, *location)
    parts = zip(above, location, strict=False)
    return ".".join(
        str(part)
        for parent, part in parts
        if not (part in _TAGS and (isinstance(parent, int) or parent in ("network", "space")))
    )


def _fields(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json")


def _from_file(path: Path) -> dict[str, Any]:
    try:
        written = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise RecipeError(f"no recipe file {path}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot read recipe {path}: {' '.join(str(error).split())}") from None
    if not isinstance(written, dict):
        raise RecipeError(f"recipe {path} is not a mapping of keys to values")
    base = builtin(str(written.pop("extends", "demo")))
    fields = _fields(base) | {"name": path.stem}
    _merge(fields, written, "")
    return fields


def _merge(fields: dict[str, Any], changes: dict[str, Any], prefix: str) -> None:
    for key, value in changes.items():
        _known(key, fields, prefix)
        if isinstance(value, dict) and isinstance(fields[key], dict) and _same_kind(value, fields[key]):
            _merge(fields[key], value, f"{prefix}{key}.")
        else:
            fields[key] = _expanded(key, value)


def _same_kind(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether the keys of `new` change `old`; a network of another family has other keys and replaces it."""
    return bool(new.get("kind", old.get("kind")) == old.get("kind"))


def _override(fields: dict[str, Any], pair: str) -> None:
    path, equals, text = pair.partition("=")
    if not equals or not path:
        raise RecipeError(f"override {pair!r} is not of the form key=value")
    *parents, last = path.split(".")
    node: Any = fields
    for index, key in enumerate(parents):
        node = _child(node, key, ".".join(parents[:index]))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"override {pair!r}: the value is not YAML") from None
    if parents[-1:] == ["space"] and last == "kind" and value != node["kind"]:
        value, last, node = {"kind": value}, parents.pop(), fields["search"]  # another kind has other keys
    node[_checked_key(node, last, ".".join(parents))] = _expanded(last, value)


def _child(node: Any, key: str, where: str) -> Any:
    child = node[_checked_key(node, key, where)]
    if not isinstance(child, dict | list):
        raise RecipeError(f"recipe key {f'{where}.{key}'.strip('.')!r} is a value, it has no keys below it")
    return child


def _checked_key(node: Any, key: str, where: str) -> str | int:
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise RecipeError(
                f"recipe key {where!r} is a list of {len(node)}: use an index from 0, not {key!r}"
            )
        return int(key)
    _known(key, node, f"{where}." if where else "")
    return key


def _known(key: str, fields: dict[str, Any], prefix: str) -> None:
    if key not in fields:
        near = get_close_matches(str(key), fields, n=1, cutoff=0)
        hint = f"; the nearest is {prefix + near[0]!r}" if near else ""
        raise RecipeError(f"the recipe has no key {f'{prefix}{key}'!r}{hint}")


def _expanded(key: str, value: Any) -> Any:
    """A preset's name, or what is said of finishing or a space, becomes all fields, for overrides."""
    if key == "quantised" and isinstance(value, dict):
        fields = QuantisedConfig().model_dump(mode="json")
        _merge(fields, value, f"{key}.")
        return fields
    if key == "space" and isinstance(value, dict):
        return filled(value)
    if key != "network" or not isinstance(value, str):
        return value
    try:
        found = named(value)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return found if isinstance(found, dict) else found.model_dump(mode="json")
