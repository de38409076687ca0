"""Strings of others, made safe to show on a terminal."""

from __future__ import annotations

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
