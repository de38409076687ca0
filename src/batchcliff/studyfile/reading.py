"""A table of a study file against its keys: what it gives, and what is wrong with it."""

from __future__ import annotations

import math
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from batchcliff.errors import UsageError
from batchcliff.studyfile.document import Document, Path_, unknown
from batchcliff.studyfile.misplaced import fields_of, where_it_stands
from batchcliff.studyfile.schema import Table

MAX_MESSAGES = 10

Problem = tuple[Path_, str]
"""Where in the file, and the whole message."""


def raise_all(problems: list[Problem], document: Document) -> None:
    """One UsageError for all problems, in the order of the file."""
    if not problems:
        return
    lines = [text for _, text in sorted(problems, key=lambda p: document.line(p[0]))]
    more = len(lines) - MAX_MESSAGES
    tail = [f"... and {more} more"] if more > 0 else []
    raise UsageError("\n".join(lines[:MAX_MESSAGES] + tail))


def read(
    model: type[Table], values: Any, document: Document, prefix: Path_ = ()
) -> tuple[dict[str, Any], list[Problem]]:
    """The given fields of a table of `document`, and what is wrong with it."""
    try:
        return model.model_validate(values).given(), []
    except ValidationError as error:
        return {}, [_problem(model, e, document, prefix) for e in error.errors()]


def read_option(hint: Any, value: Any) -> Any:
    """`value` as `hint`, strictly; UsageError with what is wrong with it."""
    try:
        found = TypeAdapter(hint, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        raise UsageError(_reason(error.errors()[0], None)) from error
    if isinstance(found, float) and not math.isfinite(found):
        raise UsageError("is not a finite number.")
    return found


def _problem(model: type[BaseModel], error: Any, document: Document, prefix: Path_) -> Problem:
    """A pydantic error in our words."""
    path: Path_ = tuple(part for part in error["loc"] if part != "[key]")
    table: type[BaseModel] = model
    for part in path[:-1]:
        inner = fields_of(table).get(part) if isinstance(part, str) else None
        table = inner or table
    names = [part for part in reversed(path) if part in table.model_fields]
    field = table.model_fields[str(names[0])] if names else None
    full = prefix + path
    if error["type"] == "extra_forbidden":
        key = str(path[-1])
        text = where_it_stands(model, path, full) or unknown("key", key, table.model_fields)
        return full, document.message(full, text, value=error["input"])
    text = _reason(error, field.examples if field else None)
    return full, document.message(full, text, value=error["input"])


_NEEDED = {
    "float_type": "a number is needed",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "string_type": "a text is needed, in quotes",
    "bool_type": "true or false is needed",
    "list_type": "a list is needed",
    "tuple_type": "a list is needed",
    "dict_type": "a table is needed",
    "model_type": "a table is needed",
    "model_attributes_type": "a table is needed",
}


def _reason(error: Any, examples: list[Any] | None) -> str:
    """What is wrong, and what to write instead."""
    raised = error.get("ctx", {}).get("error")
    text = str(raised) if raised else _NEEDED.get(error["type"], error["msg"]) + "."
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        known = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        text = unknown("value", error["input"], known)
    if error["type"] in ("float_type", "int_type") and isinstance(error["input"], str):
        try:
            float(error["input"])
        except ValueError:
            pass
        else:
            text += f" Write {error['input'].strip()}, without the quotes."
    if examples and "Did you mean" not in text:
        text += f" Write e.g. {' or '.join(examples)}."
    return text
