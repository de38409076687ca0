"""A key that stands in the wrong table of a study file: in which it belongs."""

from __future__ import annotations

import typing
from collections.abc import Iterator

from pydantic import BaseModel

from batchcliff.studyfile.document import Path_

MAX_PLACES = 3  # that a message names
ABOVE = "above the first [table] of the file"


def fields_of(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """The keys of a table, and the model of those that are tables."""
    found: dict[str, type[BaseModel] | None] = {}
    for name, field in model.model_fields.items():
        kinds = [k for k in typing.get_args(field.annotation) if isinstance(k, type)]
        found[name] = next((k for k in kinds if issubclass(k, BaseModel)), None)
    return found


def where_it_stands(root: type[BaseModel], path: Path_, full: Path_) -> str:
    """In which tables of `root` the last key of `path`, where it does not belong, does.

    full: `path` in the whole file. "" where no table has such a key.
    """
    key, above = path[-1], full[: len(full) - len(path)]
    places = _tables_with(root, str(key))
    if above:  # an arm's settings stand directly in it
        places = (place[1:] if place[:1] == ("settings",) else place for place in places)
    tables = [(*above, *place) for place in places]
    if not tables:
        return ""
    where = [f"in [{'.'.join(map(str, table))}]" if table else ABOVE for table in tables]
    return f"does not stand here. Write it {' or '.join(where[:MAX_PLACES])}."


def _tables_with(table: type[BaseModel], key: str, at: Path_ = ()) -> Iterator[Path_]:
    """Paths of the tables inside of `table` that have `key`."""
    inner = fields_of(table)
    if key in inner:
        yield at
    for name, model in inner.items():
        if model is not None:
            yield from _tables_with(model, key, (*at, name))
