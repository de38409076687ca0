"""Strings of others, made safe to show on a terminal."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

# Control, surrogate, private and unassigned characters move the cursor, retitle the window or
# show nothing; format characters (Cf) include the bidirectional overrides that reorder a line.
HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def hidden_character(text: str, allowed: str = "") -> str | None:
    """The first character of `text` that a terminal would act on instead of show, or None."""
    for character in text:
        if character not in allowed and unicodedata.category(character) in HIDDEN:
            return character
    return None


def printable(value: Any, limit: int = 500) -> str:
    """`value` as one line of text, at most `limit` characters, without control characters."""
    text = "".join(
        " " if c in "\n\t" or unicodedata.category(c) == "Zs" else c
        for c in str(value)
        if c in "\n\t" or unicodedata.category(c) not in HIDDEN
    )
    return text if len(text) <= limit else text[: limit - 3] + "..."


def escaped(text: str) -> str:
    """`text` with hidden characters as escapes, e.g. `\\x1b`; line breaks and tabs are kept.

    For tables that are data and yet may be printed on a terminal.
    """
    return "".join(
        c.encode("unicode-escape").decode() if hidden_character(c, "\n\t") else c for c in text
    )


def json_text(value: Any) -> str:
    """`value` as indented JSON; inside strings, hidden characters are JSON's own escapes.

    `json.dumps` alone leaves C1 controls and directions as they are, and terminals act on them.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False)
    if hidden_character(text, "\n") is None:
        return text
    return "".join(json.dumps(c)[1:-1] if hidden_character(c, "\n") else c for c in text)
