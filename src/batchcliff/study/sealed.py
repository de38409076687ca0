"""Sealed text: canonical JSON around a body and its SHA-256, so that any change shows.

Source: RELIABILITY.md 5.1. A seal guards against accidents of disk and copying; it is no
signature, and what is in a sealed file is still checked field by field.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

from batchcliff.canonical import canonical_json, parse_json, to_plain

VERSION = 1
HEAD = b'{"body":'
PART = b',"provenance":' + HEAD
SEAL = b',"sha256":"'


class Damaged(ValueError):
    """Content that is not what its writer sealed; the message is the reason."""


class NotUnderstood(Damaged):
    """An intact seal around content that this version cannot read; not to be moved away."""


class NewerVersion(NotUnderstood):
    """Sealed by a newer batchcliff."""


def _scrubbed(value: Any) -> Any:
    # A path that is not UTF-8 reaches us as lone surrogates, which UTF-8 cannot hold.
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_scrubbed(key): _scrubbed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_scrubbed(item) for item in value]
    return value


def to_text(value: Any) -> bytes:
    """Canonical JSON of `value`; lone surrogates become backslash escapes."""
    try:
        return canonical_json(value)
    except UnicodeEncodeError:
        return canonical_json(_scrubbed(to_plain(value)))


def seal(body: Any, provenance: Any = None) -> bytes:
    """`{"body":...,"provenance":{"body":...,"sha256":...},"sha256":...,"v":1}` and a newline.

    `sha256` is over the canonical JSON of `body` alone, so that it is equal for equal facts;
    provenance has a seal of its own, and is left out when None.
    """
    text = to_text(body)
    part = None if provenance is None else to_text(provenance)
    return _sealed(text, part)


def _sealed(body: bytes, provenance: bytes | None) -> bytes:
    return HEAD + body + _tail(_sha256(body), provenance)


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _tail(sha256: str, provenance: bytes | None) -> bytes:
    part = b""
    if provenance is not None:
        sha = _sha256(provenance).encode()
        part = PART + provenance + SEAL + sha + b'"}'
    return part + SEAL + sha256.encode() + b'","v":%d}\n' % VERSION


def _cut(data: bytes) -> tuple[bytes, bytes | None] | None:
    """The texts of the body and of the provenance (None without one), if they make these very
    bytes when they are sealed again; else None. Most files are whole: this is quick."""
    inside, *_ = data.removeprefix(HEAD).rpartition(SEAL)
    body, found, part = inside.rpartition(PART)
    provenance = part.rpartition(SEAL)[0] if found else None
    body = body if found else inside
    return (body, provenance) if data == _sealed(body, provenance) else None


def _parsed(text: bytes) -> Any:
    """As `parse_json`, by the parser that comes with pydantic: a quarter of the time.

    What it takes Python's takes too, with the same result; it takes less: no NaN, no half of a
    surrogate pair (ValueError). A text that may have a spelled-out float is left to Python's.
    """
    from pydantic_core import from_json  # not by who never reads a record

    if b"$" in text or b"\\" in text:
        return parse_json(text)
    return from_json(text, allow_inf_nan=False, cache_strings="keys")


def unseal(data: bytes) -> tuple[Any, Any]:
    """The body and the provenance (None without one) of what `seal` wrote.

    Raises Damaged unless every byte is as `seal` wrote it, NewerVersion for a later format.
    """
    cut = _cut(data)
    if cut is not None:
        with contextlib.suppress(ValueError, RecursionError):  # it is told below what is wrong
            body, provenance = cut
            return _parsed(body), None if provenance is None else _parsed(provenance)
    try:
        whole = parse_json(data)
        version, sha256, body = whole["v"], whole["sha256"], whole["body"]
        if isinstance(version, int) and version > VERSION:
            raise NewerVersion(f"format {version}, this batchcliff reads up to {VERSION}")
        provenance = whole["provenance"]["body"] if "provenance" in whole else None
        # Encoded again: the tail must be, byte for byte, what `seal` makes of it.
        part = to_text(provenance) if "provenance" in whole else None
        if part is not None and whole["provenance"]["sha256"] != _sha256(part):
            raise Damaged("SHA-256 of the provenance does not match")
        tail = _tail(str(sha256), part)
    except Damaged:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged(f"not a sealed record ({type(error).__name__})") from error
    # The bytes between the frame are hashed as they lie there: nothing is encoded again, and
    # a frame with anything added to it (space, a second key, another order) is no frame.
    if len(data) < len(HEAD) + len(tail) or not data.startswith(HEAD):
        raise Damaged("not a sealed record (frame)")
    if not data.endswith(tail):
        raise Damaged("not a sealed record (frame)")
    if _sha256(data[len(HEAD) : len(data) - len(tail)]) != sha256:
        raise Damaged("SHA-256 does not match")
    return body, provenance
