"""Strings and numbers as people read them. Every string that a report shows passes here.

Names, paths and reasons come from study files and from other machines, so they may hold
anything: control characters, text that runs right to left, half of a surrogate pair.
"""

from __future__ import annotations

import itertools
import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from batchcliff.record import BatchStage

# Characters that reorder the text around them: a name could swap the columns of a table.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
NOTHING = "\N{EN DASH}"  # shown where there is no number
MINUS = "\N{MINUS SIGN}"


def clean(text: object, limit: int = 0) -> str:
    """`text` on one line and printable; longer than `limit` characters: cut, with an ellipsis.

    Control and bidirectional-override characters become U+FFFD or a space, and lone
    surrogates (undecodable paths) become U+FFFD, so that the result can be encoded.
    """
    shown = "".join(_printable(character) for character in str(text))
    shown = " ".join(shown.split())
    if limit and len(shown) > limit:
        return shown[: limit - 1] + "…"
    return shown


def _printable(character: str) -> str:
    if character in _BIDI:
        return "\ufffd"
    category = unicodedata.category(character)
    if category in ("Zl", "Zp", "Zs") or character in "\t\n\r\v\f":
        return " "
    return "\ufffd" if category in ("Cc", "Cs", "Cn") else character


def clean_tree(value: Any) -> Any:
    """Every string inside of plain `value` (dict keys too) made encodable; NaN is kept."""
    if type(value) in _NUMBERS:  # most of a report
        return value
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {clean_tree(key): clean_tree(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [item if type(item) in _NUMBERS else clean_tree(item) for item in value]
    return value


_NUMBERS = frozenset({int, float, bool, type(None)})


def encodable(text: str) -> str:
    """`text` with escapes in place of lone surrogates, which UTF-8 cannot hold."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def display_names(names: Iterable[str], limit: int = 32) -> dict[str, str]:
    """A short, printable label for each name; different names get different labels."""
    labels: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        if name in labels:
            continue
        label = base = clean(name, limit) or "(no name)"
        count = 2
        while label in taken:
            label, count = f"{base} ({count})", count + 1
        labels[name] = label
        taken.add(label)
    return labels


def percent(share: float | None, digits: int = 2) -> str:
    """0.9175 as "91.75%"; a dash for None or NaN."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{100 * share:.{digits}f}%"


def points(difference: float | None, digits: int = 2) -> str:
    """A difference of two shares in percentage points, with its sign: "+1.30"."""
    if difference is None or not math.isfinite(difference):
        return NOTHING
    text = f"{100 * difference:+.{digits}f}"
    zero = float(text) == 0
    return f"{0:.{digits}f}" if zero else text.replace("-", MINUS)


def number(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant ones, thousands separated; a dash for none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.{max(digits - 2, 1)}e}"
    return f"{value:.{digits}g}"


def batch(value: float) -> str:
    """A batch size on the way to a reader: three significant digits, thousands separated."""
    if value == int(value):
        return f"{int(value):,}"
    shown = float(f"{value:.3g}")
    return f"{shown:,.0f}" if shown >= 100 else f"{shown:g}"


def stage_sizes(size: int, stages: Sequence[BatchStage]) -> str:
    """ "128", or "128, 640, 3,200" where the batch size changes during the run."""
    sizes = [stage.batch_size for stage in stages] or [size]
    return ", ".join(f"{size:,}" for size, _ in itertools.groupby(sizes))


def plural(count: int, one: str, many: str = "") -> str:
    """ "1 trial", "2 trials"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(items: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    parts = list(items)
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
