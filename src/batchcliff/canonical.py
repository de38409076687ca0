"""One text for one value: canonical JSON, its digest, and frozen dataclasses to and from it.

Everything that is hashed, sealed or compared byte for byte goes through `canonical_json`:
sorted keys, UTF-8, shortest round-trip floats, and non-finite floats spelled out as
`{"$float": "nan"}`, since JSON has no NaN and a NaN must never become a number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import gc
import hashlib
import itertools
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from batchcliff.errors import UsageError

T = TypeVar("T")

ADDED: Mapping[str, bool] = types.MappingProxyType({"added": True})
"""Metadata of a dataclass field that was added later; see `to_plain`."""


def to_plain(value: Any) -> Any:
    """Dataclasses, enums and tuples as dicts, strings and lists; other values unchanged.

    A field with `metadata=ADDED` came after the first records were written: it is left out
    while it has its default, so that what was written before keeps its bytes and its id.
    """
    kind: Any = type(value)
    if kind in _ATOMS:
        return value
    if hasattr(kind, "__dataclass_fields__"):
        items = [(name, getattr(value, name), added) for name, added in _fields(kind)]
        return {
            name: item if type(item) in _ATOMS else to_plain(item)
            for name, item, added in items
            if not (added and item == added[0])
        }
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [item if type(item) in _ATOMS else to_plain(item) for item in value]
    return value


_ATOMS = frozenset({str, int, float, bool, type(None)})  # plain as they are: most of a record


@functools.cache
def _fields(cls: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Names of a dataclass' fields, with the default of those that were ADDED."""
    return tuple(
        (f.name, (f.default,) if "added" in f.metadata else ()) for f in dataclasses.fields(cls)
    )


def _spell_floats(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}
    if isinstance(value, dict):
        if value.keys() == {"$float"}:
            raise UsageError(
                f"{value!r:.80}: would be read back as a number, for so is a float written "
                "that is not finite; give the mapping another key"
            )
        return {key: _spell_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_spell_floats(item) for item in value]
    return value


def _read_floats(value: dict[str, Any]) -> Any:
    if value.keys() == {"$float"}:
        if not isinstance(value["$float"], str):
            raise ValueError(f"$float: {value['$float']!r:.80} is no text")
        return float(value["$float"])
    return value


def canonical_json(value: Any) -> bytes:
    """The one byte string for `value` (dataclasses allowed).

    Raises UsageError for a mapping whose only key is "$float": it would be read as a number.
    """
    plain = to_plain(value)
    try:
        text = _dumps(plain)
    except ValueError:  # a float that is not finite: rare, so that none is looked for before
        text = _dumps(_spell_floats(plain))
    else:
        if '{"$float":' in text:  # as no string can hold it: its quotes would be escaped
            _spell_floats(plain)
    return text.encode()


def _dumps(plain: Any) -> str:
    return json.dumps(
        plain, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def parse_json(data: bytes | str) -> Any:
    """The inverse of `canonical_json`, as plain dicts and lists. ValueError if malformed."""
    return json.loads(data, object_hook=_read_floats)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def from_plain(cls: type[T], value: Any) -> T:
    """Rebuild a (nested) dataclass from what `to_plain` made of it.

    Raises ValueError for a missing or unknown field, so that a record written by another
    version is refused instead of being read as something else; TypeError for a leaf of
    another type than the field's. A nested dataclass that is built already is taken as it is.
    """
    return typing.cast(T, _builder(typing.cast(Any, cls))(value))


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Within the block Python looks for no reference cycles.

    Values made of records have none, and are freed when the last reference to them goes. But
    the more of them there are the more often all are looked through: of a report on ten
    thousand records that was a third.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


Builder = Callable[[Any], Any]


def _same(value: Any) -> Any:
    """Lists as tuples: a value of any type, such as an option of a technique, is frozen too."""
    return tuple([_same(item) for item in value]) if isinstance(value, list) else value


@functools.cache  # reading hints takes longer than all the rest of a record
def _builder(hint: Any) -> Builder:
    """The function that rebuilds a value of the type `hint`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _union_builder(args)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        inner = _builder(args[0])
        return tuple if inner is _same else _list_builder(inner, _exact_types(args[0]))
    if origin is tuple:
        return _row_builder(args)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass_builder(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    return _leaf_builder((hint,)) if hint in _LEAVES else _same


_LEAVES: dict[Any, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),  # a whole float may have been written as an integer by hand
    str: (str,),
}


def _exact_types(hint: Any) -> frozenset[type]:
    """Types that `hint` takes as they are; none where it is more than numbers and texts."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = typing.get_args(hint) if union else (hint,)
    if not all(option in _LEAVES or option is type(None) for option in options):
        return frozenset()
    found = {kind for option in options for kind in _LEAVES.get(option, (type(None),))}
    return frozenset(found)


def _list_builder(inner: Builder, exact: frozenset[type]) -> Builder:
    """Many values of one kind, a curve: looked at one by one only if a type is not expected."""

    def build(value: Any) -> Any:
        if isinstance(value, list) and exact.issuperset(map(type, value)):
            return tuple(value)
        return tuple([inner(item) for item in value])

    return build


def _row_builder(hints: tuple[Any, ...]) -> Builder:
    """A tuple of so many values: looked at one by one only if a type is not expected."""
    inners = [_builder(hint) for hint in hints]
    exact = frozenset(itertools.product(*map(_exact_types, hints)))

    def build(value: Any) -> Any:
        if isinstance(value, list) and tuple(map(type, value)) in exact:
            return tuple(value)
        return tuple([inner(item) for inner, item in zip(inners, value, strict=True)])

    return build


def _leaf_builder(hints: tuple[Any, ...], none: bool = False) -> Builder:
    allowed = tuple(kind for hint in hints for kind in _LEAVES[hint])

    def build(value: Any) -> Any:
        if (none and value is None) or (
            isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
        ):
            return value
        names = " or ".join(hint.__name__ for hint in hints)
        raise TypeError(f"expected {names}, got {type(value).__name__}")

    return build


def _union_builder(options: tuple[Any, ...]) -> Builder:
    kinds = [option for option in options if option is not type(None)]
    none = len(kinds) < len(options)
    if classes := [kind for kind in kinds if dataclasses.is_dataclass(kind)]:
        build = _builder(typing.cast(Any, classes[0]))
        return lambda value: build(value) if isinstance(value, dict) else value
    if all(kind in _LEAVES for kind in kinds):
        return _leaf_builder(tuple(kinds), none)
    if len(kinds) == 1:
        inner = _builder(kinds[0])
        return lambda value: None if value is None else inner(value)
    return _same


def _dataclass_builder(cls: Any) -> Builder:
    hints, fields = typing.get_type_hints(cls), dataclasses.fields(cls)
    builders = {f.name: _builder(hints[f.name]) for f in fields}
    exact = {f.name: _exact_types(hints[f.name]) for f in fields}
    required = {
        f.name
        for f in fields
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }

    def build(value: Any) -> Any:
        if type(value) is cls:
            return value
        if not isinstance(value, dict):
            raise ValueError(f"{cls.__name__}: expected an object, got {type(value).__name__}")
        if not value.keys() <= builders.keys():
            unknown = sorted(value.keys() - builders.keys())
            raise ValueError(f"{cls.__name__}: unknown field {unknown[0]!r}")
        if not required <= value.keys():
            missing = sorted(required - value.keys())
            raise ValueError(f"{cls.__name__}: missing field {missing[0]!r}")
        return cls(
            **{
                name: item if type(item) in exact[name] else builders[name](item)
                for name, item in value.items()
            }
        )

    return build
