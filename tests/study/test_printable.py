"""Strings of others on their way to a terminal: as text, and without losing what they were."""

from __future__ import annotations

import ast
import json

from hypothesis import given
from hypothesis import strategies as st

from batchcliff.study.printable import escaped, hidden_character, json_text

ANY = st.text(alphabet=st.characters(codec=None), max_size=40)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | ANY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3),
    max_leaves=8,
)


@given(TREES)
def test_law_json_hides_nothing_and_loses_nothing(tree: object) -> None:
    text = json_text(tree)
    assert hidden_character(text, "\n") is None
    text.encode()  # half of a surrogate pair is an escape too
    assert json.loads(text) == tree


@given(ANY)
def test_law_escapes_are_those_of_python_and_nothing_else_changes(text: str) -> None:
    shown = escaped(text)
    assert hidden_character(shown, "\n\t") is None
    if hidden_character(text, "\n\t") is None:
        assert shown == text
    elif "\\" not in text and "'" not in text:
        assert ast.literal_eval(f"'''{shown}'''") == text


def test_control_json_alone_leaves_what_terminals_act_on() -> None:
    plain = json.dumps("\x9b31m\u202e", ensure_ascii=False)
    assert hidden_character(plain) is not None
    assert json_text("\x9b31m\u202e学習率") == '"\\u009b31m\\u202e学習率"'
    assert escaped("a\x1b[2J\n\tb") == "a\\x1b[2J\n\tb"
