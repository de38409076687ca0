"""One text for one value: canonical JSON, its digest, and frozen dataclasses to and from it.

Everything that is hashed, sealed or compared byte for byte goes through `canonical_json`:
sorted keys, UTF-8, shortest round-trip floats, and non-finite floats spelled out as
`{"$float": "nan"}`, since JSON has no NaN and a NaN must never become a number.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses, enums and tuples as dicts, strings and lists; other values unchanged."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def _spell_floats(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, dict):
        return {key: _spell_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spell_floats(item) for item in value]
    return value


def _read_floats(value: dict[str, Any]) -> Any:
    if value.keys() == {"$float"}:
        return float(value["$float"])
    return value


def canonical_json(value: Any) -> bytes:
    """The one byte string for `value` (dataclasses allowed)."""
    return json.dumps(
        _spell_floats(to_plain(value)),
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
        ensure_ascii=False,
    ).encode()


def parse_json(data: bytes | str) -> Any:
    """The inverse of `canonical_json`, as plain dicts and lists. ValueError if malformed."""
    return json.loads(data, object_hook=_read_floats)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def from_plain(cls: type[T], value: Any) -> T:
    """Rebuild a (nested) dataclass from what `to_plain` made of it.

    Raises ValueError for a missing or unknown field, so that a record written by another
    version is refused instead of being read as something else.
    """
    return typing.cast(T, _build(cls, value))


def _build(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        for option in options:
            if dataclasses.is_dataclass(option) and isinstance(value, dict):
                return _build(option, value)
        kinds = [o for o in options if o is not type(None)]
        return _build(kinds[0], value) if len(kinds) == 1 else value
    if origin is tuple:
        args = typing.get_args(hint)
        inner = args[0] if len(args) == 2 and args[1] is Ellipsis else None
        if inner is not None:
            return tuple(_build(inner, item) for item in value)
        return tuple(_build(arg, item) for arg, item in zip(args, value, strict=True))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    return value


def _build_dataclass(cls: type, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{cls.__name__}: expected an object, got {type(value).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(value.keys() - fields.keys()):
        raise ValueError(f"{cls.__name__}: unknown field {unknown[0]!r}")
    built = {}
    for name, field in fields.items():
        if name in value:
            built[name] = _build(hints[name], value[name])
        elif (
            field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise ValueError(f"{cls.__name__}: missing field {name!r}")
    return cls(**built)
