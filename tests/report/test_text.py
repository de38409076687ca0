"""Strings and numbers as they are shown."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.report import text


@given(st.text(alphabet=st.characters(), max_size=80))
def test_clean_text_is_one_line_encodable_and_keeps_its_direction(raw: str) -> None:
    shown = text.clean(raw, 40)
    shown.encode()
    assert len(shown) <= 40
    assert shown.isprintable() or "\u2028" not in shown
    assert not set(shown) & {"\n", "\r", "\t", "\x00", "\u202e", "\u2066", "\u2028"}


def test_clean_leaves_names_in_any_script_alone() -> None:
    for name in ("warmup+lars", "学習率", "étude", "דוגמה", "a/b c"):
        assert text.clean(name) == name


@given(st.lists(st.text(max_size=50), max_size=8))
def test_different_names_get_different_labels(names: list[str]) -> None:
    labels = text.display_names(names)
    assert set(labels) == set(names)
    assert len(set(labels.values())) == len(set(names))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.9175, "91.75%"), (None, text.NOTHING), (math.nan, text.NOTHING), (1.0, "100.00%")],
)
def test_percent(value: float | None, shown: str) -> None:
    assert text.percent(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.013, "+1.30"),
        (-0.013, f"{text.MINUS}1.30"),
        (0.00001, "0.00"),
        (-0.00001, "0.00"),
        (None, text.NOTHING),
    ],
)
def test_points(value: float | None, shown: str) -> None:
    assert text.points(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(8192, "8,192"), (2897.3, "2,900"), (890.4, "890"), (45.25, "45.2")]
)
def test_batch(value: float, shown: str) -> None:
    assert text.batch(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (39000, "39,000"),
        (0.1, "0.1"),
        (1e-6, "1.00e-06"),
        (math.inf, text.NOTHING),
        (3.2, "3.2"),
    ],
)
def test_number(value: float, shown: str) -> None:
    assert text.number(value) == shown


def test_a_tree_with_half_a_surrogate_pair_can_be_encoded() -> None:
    assert text.clean_tree({"a": ["\ud800", 1.5, None]}) == {"a": ["\\ud800", 1.5, None]}
