"""JSON to frozen dataclasses and back: every key known, every type right, one line that names what is not."""

from __future__ import annotations

import math
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hetero_devices.errors import HeteroError

T = TypeVar("T")

_SCALARS: dict[Any, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}


def decode(cls: type[T], value: object, where: str, error: type[HeteroError], *, defaults: bool = False) -> T:
    """Build the dataclass `cls` from parsed JSON.

    where: what the value is called in messages, e.g. "manifest".
    defaults: keys whose field has a default may be absent; otherwise every key is required.
    Raises `error` for an unknown or missing key and for a value of another type (NaN and infinity included).
    """
    try:
        decoded: T = _dataclass(cls, value, where, defaults)
    except _Mismatch as mismatch:
        raise error(str(mismatch)) from None
    return decoded


def schema(cls: type[Any]) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of what `decode` accepts for `cls` when every key is required."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.__name__} | _schema(cls)


class _Mismatch(Exception):
    pass


def _dataclass(cls: type[Any], value: object, where: str, defaults: bool) -> Any:
    if not isinstance(value, dict):
        raise _Mismatch(f"{where} is {_show(value)}, expected an object")
    known = {field.name for field in fields(cls)}
    if unknown := sorted(map(str, value.keys() - known)):
        raise _Mismatch(f"{where} has the unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    if missing := sorted(_required(cls, defaults) - value.keys()):
        raise _Mismatch(f"{where} lacks the key {missing[0]!r}")
    hints = get_type_hints(cls)
    return cls(**{key: _decode(hints[key], item, f"{where}.{key}", defaults) for key, item in value.items()})


def _required(cls: type[Any], defaults: bool) -> set[str]:
    optional = (f.name for f in fields(cls) if f.default is not MISSING or f.default_factory is not MISSING)
    return {field.name for field in fields(cls)} - (set(optional) if defaults else set())


def _decode(hint: Any, value: object, where: str, defaults: bool) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _dataclass(hint, value, where, defaults)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_decode(args[0], item, f"{where}[{i}]", defaults) for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _decode(args[1], item, f"{where}.{key}", defaults) for key, item in value.items()}
    if origin in (Union, types.UnionType):  # only ever `X | None`
        return None if value is None else _decode(args[0], value, where, defaults)
    if not _is(hint, value):
        raise _Mismatch(f"{where} is {_show(value)}, expected {_name(hint)}")
    return float(value) if hint is float and isinstance(value, int) else value


def _is(hint: Any, value: object) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is Literal:
        return any(type(value) is type(option) and value == option for option in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    return type(value) is hint  # not isinstance: True is no integer here


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer larger than any float
        return False


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return _SCALARS.get(hint) or {tuple: "a list", dict: "an object"}[get_origin(hint)]


def _show(value: object) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:57]}..."


def _schema(hint: Any) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        properties = {field.name: _schema(hints[field.name]) for field in fields(hint)}
        return {
            "type": "object",
            "properties": properties,
            "required": sorted(properties),
            "additionalProperties": False,
        }
    if origin is Literal:
        return {"enum": list(args)}
    if origin is tuple:
        return {"type": "array", "items": _schema(args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(args[1])}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(args[0]), {"type": "null"}]}
    return {} if hint is Any else {"type": _SCALARS[hint]}
