"""Sealed text: read quickly where every byte is as it was sealed, and to the same end."""

from __future__ import annotations

import json
import math
import random
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchcliff.canonical import canonical_json, parse_json
from batchcliff.study import sealed
from batchcliff.study.sealed import HEAD, PART, SEAL, Damaged, NewerVersion, seal, unseal

KEYS = st.text(max_size=4) | st.sampled_from(["body", "provenance", "sha256", "v", "$float"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([text.decode() for text in (HEAD, PART, SEAL)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3).filter(
            lambda made: made.keys() != {"$float"}
        )
    ),
    max_leaves=8,
)


@given(VALUES, st.none() | VALUES)
@example({"provenance": {"body": 1, "sha256": "0" * 64}}, None)  # looks like a part
@example({"a": "\ud800", "b": math.nan, "c": -0.0}, {"provenance": {"body": 1}})
@example({"$float": "nan", "a": math.inf}, {"a": '{"$float":'})
def test_what_was_sealed_is_what_is_read(body: Any, provenance: Any) -> None:
    found, made = unseal(seal(body, provenance))
    assert repr(found) == repr(parse_json(sealed.to_text(body)))  # a NaN is not equal to itself
    expected = None if provenance is None else parse_json(sealed.to_text(provenance))
    assert repr(made) == repr(expected)


def test_a_whole_file_is_not_read_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    data = seal({"curve": [0.1, 1e-300, 3]}, {"started": "now"})
    monkeypatch.setattr(sealed, "parse_json", lambda _: 1 / 0)
    assert unseal(data) == ({"curve": [0.1, 1e-300, 3]}, {"started": "now"})
    for wrong in (data.replace(b"now", b"nov"), data.replace(b"0.1", b"0.2")):
        with pytest.raises(ZeroDivisionError):  # which then finds out what is wrong
            unseal(wrong)


def test_no_byte_can_be_changed() -> None:
    data, rng = seal({"a": [1, 0.5, "é"], "b": {}}, {"c": "d"}), random.Random(1)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << rng.randrange(8)
        with pytest.raises(Damaged) as told:
            unseal(bytes(changed))
        # The version alone lies outside of the seals: it may have become a later one.
        assert not isinstance(told.value, NewerVersion) or place == len(data) - 3


TEXTS = [
    "01", "+1", "1.", ".5", "1e", "[1,]", "{,}", "''", "tru", "nul", "--", "1_0", "0x1", "1E5",
    "NaN", "Infinity", "-Infinity", "1e999", "-0", "-0.0",
    '{"a":1,"a":2}', '"\t"', '"\x01"', '"\x7f"', "1 ", " 1", "1\x0c", "[1] [2]", "{1:2}", "//1",
    "9" * 400, "9" * 5000, "1" * 400 + ".5", "5e-324", "2e-324", "2.2250738585072011e-308",
    "[" * 300 + "]" * 300, "\ufeff1", "1\xa0", '"é\u2028"', '{"b":[{}],"a":null}',
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text)[:20])
def test_the_quick_parser_takes_nothing_that_pythons_refuses(text: str) -> None:
    """and gives the same where both take it: a seal is no proof that we wrote what is in it."""
    try:
        quick = sealed._parsed(text.encode())
    except ValueError:
        return
    assert repr(quick) == repr(json.loads(text))


def test_floats_are_the_same_bit_for_bit() -> None:
    rng = random.Random(2)
    floats = [struct.unpack("d", rng.randbytes(8))[0] for _ in range(20_000)]
    floats = [x for x in floats if math.isfinite(x)]
    assert list(map(repr, sealed._parsed(canonical_json(floats)))) == list(map(repr, floats))
    whole, exponent = (lambda: rng.randrange(10 ** rng.randrange(1, 25))), range(-330, 290)
    digits = ",".join(f"{whole()}.{whole()}e{rng.choice(exponent)}" for _ in range(20_000))
    assert sealed._parsed(f"[{digits}]".encode()) == json.loads(f"[{digits}]")


@pytest.mark.parametrize("spelled", ["[]", "{}", "null", "true", "1.5", '"many"'])
def test_a_seal_does_not_make_a_float_of_anything(spelled: str) -> None:
    body = f'{{"accuracy":{{"$float":{spelled}}}}}'.encode()
    with pytest.raises(Damaged):
        unseal(sealed._sealed(body, None))
