"""A TOML text as data that remembers where each key stands, for messages with a line.

Source of the grammar: https://toml.io/en/v1.0.0. `tomllib` decides what is valid; `key_lines`
then walks the same text, so it may assume a valid one.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.study.printable import printable

Path_ = tuple[str | int, ...]
MAX_BYTES = 1_000_000
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_QUOTES = ('"""', "'''", '"', "'")


def show(value: Any) -> str:
    """`value` as TOML would spell it, short enough for a message."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = str(type(value).__name__)
    return printable(text, limit=80)


def dotted(path: Iterable[str | int]) -> str:
    """A path as it is typed: `arms."warmup+lars".lars`, list items as `[0]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            quoted = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{quoted}" if text else quoted
    return printable(text, limit=120)


@dataclass
class Document:
    """What a study file says, with overrides applied, and where each key came from."""

    label: str
    data: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)
    options: dict[Path_, str] = field(default_factory=dict)  # set on the command line

    def where(self, path: Path_) -> str:
        """`file:line` of `path` or of the nearest table around it; or the option's text."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.options:
                return printable(self.options[path[:length]], limit=120)
            if path[:length] in self.lines:
                return f"{self.label}:{self.lines[path[:length]]}"
        return f"{self.label}:1"

    def line(self, path: Path_) -> int:
        """The line to sort messages by; options, which stand in no line, come last."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        option = any(path[:n] in self.options for n in range(1, len(path) + 1))
        return 1 << 40 if option else 1

    def message(self, path: Path_, text: str, *, value: Any = ...) -> str:
        """One line of an error: where, which key, which value, and `text`."""
        given = "" if value is ... else f" = {show(value)}"
        return f"{self.where(path)}: {dotted(path)}{given}: {text}"

    def fail(self, path: Path_, text: str, *, value: Any = ...) -> UsageError:
        """The error to raise for one bad key."""
        return UsageError(self.message(path, text, value=value))

    def override(self, text: str) -> None:
        """Apply `key=value` of `--set`. UsageError if it cannot be read or fits no table."""
        path, value = _read_override(text)
        self.put(path, value, f"--set {text}")

    def put(self, path: tuple[str, ...], value: Any, origin: str) -> None:
        """Set one key; `origin` is what messages give instead of a line."""
        table: Any = self.data
        for depth, part in enumerate(path[:-1]):
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise UsageError(
                    f"{printable(origin, limit=120)}: {dotted(path[: depth + 1])} = "
                    f"{show(table)} is not a table, so it has no key {path[depth + 1]!r}"
                )
        table[path[-1]] = value
        for known in [p for p in self.lines if p[: len(path)] == path]:
            del self.lines[known]
        self.options[path] = origin


def _read_override(text: str) -> tuple[tuple[str, ...], Any]:
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    shown = printable(text, limit=120)
    if not equals or not key or not value:
        raise UsageError(f"--set {shown}: write key=value, e.g. --set lr.base=0.2")
    if "\n" in text or "\r" in text:
        raise UsageError(f"--set {shown}: one key and one value, without a line break")
    try:
        path = _only_path(tomllib.loads(f"{key} = 0"))
    except (ValueError, RecursionError):
        path = tuple(key.split("."))  # `arms.warmup+lars.lars`, without TOML's quotes
    if not all(path):
        raise UsageError(f"--set {shown}: {printable(key)!r} is no key, e.g. --set lr.base=0.2")
    try:
        return path, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError) as error:
        if value[0] in "[{\"'":
            raise UsageError(f"--set {shown}: {printable(error)}") from error
        return path, value


def _only_path(table: Any) -> tuple[str, ...]:
    path: tuple[str, ...] = ()
    while isinstance(table, dict):
        ((name, table),) = table.items()
        path += (name,)
    return path


def read_text(path: Path) -> str:
    """The text of a study file. UsageError if it is too large, no file, or not UTF-8."""
    label = printable(path)
    if not path.is_file():
        raise UsageError(f"{label}: is not a file; a study file is a TOML text")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{label}: cannot be read ({error.strerror})") from error
    if len(raw) > MAX_BYTES:
        raise UsageError(f"{label}: larger than {MAX_BYTES} bytes; is this a study file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{label}:{line}: is not UTF-8 text; save it as UTF-8") from error


def parse(text: str, label: str, overrides: Sequence[str] = ()) -> Document:
    """Parse TOML and apply `--set` overrides. UsageError as `file:line:column: reason`."""
    try:
        data = tomllib.loads(text)
    except RecursionError as error:
        raise UsageError(f"{label}:1: too deeply nested for a study file") from error
    except ValueError as error:
        reason = str(error)
        place = re.search(r" \(at line (\d+), column (\d+)\)$", reason)
        at_end = reason.endswith(" (at end of document)")
        reason = re.sub(r" \(at [^()]*\)$", "", reason)
        line, column = (place[1], place[2]) if place else (str(text.count("\n") + 1), "1")
        hint = _toml_hint(text.split("\n")[int(line) - 1], reason)
        end = " at the end of the file" if at_end else ""
        raise UsageError(f"{label}:{line}:{column}: {printable(reason)}{end}.{hint}") from error
    document = Document(label, data, _Walker(text).lines)
    for item in overrides:
        document.override(item)
    return document


def _toml_hint(line: str, reason: str) -> str:
    """What to write instead, for the slips that YAML and Python habits lead to."""
    if "overwrite" in reason or "twice" in reason or "Duplicate" in reason:
        return " Each key may stand once: remove one of the two."
    key, equals, value = (part.strip() for part in line.partition("="))
    if not equals:
        if ":" in key and not key.startswith("["):
            return " TOML writes `key = value`, not `key: value`."
        return ""
    word = value.split("#")[0].strip()
    if word in ("True", "False", "on", "off", "yes", "no", "On", "Off", "Yes", "No"):
        return f" TOML writes true or false, not {word}."
    if word in ("None", "null", "none"):
        return " TOML has no null: leave the key out."
    if re.fullmatch(r"[+-]?0\d+", word):
        return f" Write {word.lstrip('+-0') or '0'}, without leading zeros."
    if re.fullmatch(r"[A-Za-z0-9%][\w%.:+-]*", word):
        return f' Text needs quotes: {printable(key)} = "{printable(word)}".'
    return ""


class _Walker:
    """Walks a valid TOML text and notes the line of every key and list item."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text.replace("\r\n", "\n"), 0
        self.lines: dict[Path_, int] = {}
        self._last_line, self._last_at = 1, 0
        table: Path_ = ()
        while self._skip(" \t\n") < len(self.text):
            if self.text[self.at] != "[":
                self._pair(table)
                continue
            double = self.text.startswith("[[", self.at)
            self.at += 2 if double else 1
            line = self._line()
            table = self._key()
            if double:  # the newest of an array of tables: its index is the count so far
                table += (sum(p[:-1] == table and isinstance(p[-1], int) for p in self.lines),)
            self._note(table, line)
            self.at = self.text.index("]", self.at) + (2 if double else 1)

    def _line(self) -> int:
        self._last_line += self.text.count("\n", self._last_at, self.at)
        self._last_at = self.at
        return self._last_line

    def _note(self, path: Path_, line: int) -> None:
        for length in range(1, len(path) + 1):  # `a.b = 1` also says where `a` begins
            self.lines.setdefault(path[:length], line)

    def _skip(self, blank: str) -> int:
        while self.at < len(self.text):
            if self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            elif self.text[self.at] in blank:
                self.at += 1
            else:
                break
        return self.at

    def _key(self) -> Path_:
        path: Path_ = ()
        while True:
            self._skip(" \t")
            if self.text[self.at] in "\"'":
                start = self.at
                self._string()
                path += (tomllib.loads(f"k = {self.text[start : self.at]}")["k"],)
            elif match := _BARE_KEY.match(self.text, self.at):
                path += (match[0],)
                self.at = match.end()
            self._skip(" \t")
            if self.text[self.at] != ".":
                return path
            self.at += 1

    def _pair(self, table: Path_) -> None:
        line = self._line()
        path = table + self._key()
        self._note(path, line)
        self.at += 1  # "="
        self._skip(" \t")
        self._value(path)

    def _value(self, path: Path_) -> None:
        character = self.text[self.at]
        if character in "\"'":
            self._string()
        elif character == "[":
            self._list(path)
        elif character == "{":
            self._inline_table(path)
        else:
            while self.at < len(self.text) and self.text[self.at] not in ",]}\n#":
                self.at += 1

    def _list(self, path: Path_) -> None:
        self.at += 1
        index = 0
        while self.text[self._skip(" \t\n,")] != "]":
            self._note((*path, index), self._line())
            self._value((*path, index))
            index += 1
        self.at += 1

    def _inline_table(self, path: Path_) -> None:
        self.at += 1
        while self.text[self._skip(" \t\n,")] != "}":
            self._pair(path)
        self.at += 1

    def _string(self) -> None:
        quote = next(q for q in _QUOTES if self.text.startswith(q, self.at))
        self.at += len(quote)
        while not self.text.startswith(quote, self.at):
            self.at += 2 if self.text[self.at] == "\\" and quote[0] == '"' else 1
        self.at += len(quote)
        while len(quote) == 3 and self.text.startswith(quote[0], self.at):
            self.at += 1  # `""""`: a quote before the closing three


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The text of an error about an unknown name, with the nearest one."""
    return f"unknown {what}.{did_you_mean(name, known)}"
