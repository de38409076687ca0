"""One text for one value, and back: laws over nested dataclasses, and what is refused."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.canonical import canonical_json, digest, from_plain, parse_json, to_plain
from batchcliff.errors import UsageError
from batchcliff.record import Curves, Ledger, Outcome, Provenance, TrialRecord
from batchcliff.spec import Decay, Settings, TrialSpec


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Leaf:
    name: str
    share: float | None = None


@dataclass(frozen=True)
class Tree:
    count: int
    leaf: Leaf
    colour: Colour = Colour.RED
    leaves: tuple[Leaf, ...] = ()
    pairs: tuple[tuple[str, int], ...] = ()
    widths: tuple[tuple[int, ...], ...] = ()
    maybe: Leaf | None = None
    either: str | int = 0
    flag: bool = False
    rates: tuple[float, ...] = field(default_factory=tuple)


FLOATS = st.floats()  # NaN and both infinities among them
LEAVES = st.builds(Leaf, st.text(), st.none() | FLOATS)
TREES = st.builds(
    Tree,
    count=st.integers(-(2**70), 2**70),
    leaf=LEAVES,
    colour=st.sampled_from(Colour),
    leaves=st.lists(LEAVES, max_size=3).map(tuple),
    pairs=st.lists(st.tuples(st.text(), st.integers()), max_size=3).map(tuple),
    widths=st.lists(st.lists(st.integers(), max_size=3).map(tuple), max_size=3).map(tuple),
    maybe=st.none() | LEAVES,
    either=st.text() | st.integers(),
    flag=st.booleans(),
    rates=st.lists(FLOATS, max_size=4).map(tuple),
)


def same(one: Any, other: Any) -> bool:
    """Equal in value and type, where NaN equals NaN and 0.0 is not -0.0."""
    if isinstance(one, float) and isinstance(other, float):
        if math.isnan(one):
            return math.isnan(other)
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    if type(one) is not type(other):
        return False
    if dataclasses.is_dataclass(one):
        names = [f.name for f in dataclasses.fields(one)]
        return all(same(getattr(one, n), getattr(other, n)) for n in names)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@given(TREES)
def test_law_round_trip(tree: Tree) -> None:
    text = canonical_json(tree)
    again = from_plain(Tree, parse_json(text))
    assert same(again, tree)
    assert canonical_json(again) == text
    assert digest(again) == digest(tree) == hashlib.sha256(text).hexdigest()


@given(TREES, TREES)
def test_law_one_text_for_one_value(one: Tree, other: Tree) -> None:
    assert (canonical_json(one) == canonical_json(other)) == same(one, other)


@given(st.dictionaries(st.text(), st.integers() | FLOATS, min_size=2))
def test_the_order_of_keys_is_no_matter(value: dict[str, Any]) -> None:
    reverse = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(reverse)


def test_golden_text() -> None:
    tree = Tree(
        1, Leaf("é\n", 0.1), pairs=(("a", 2),), rates=(math.nan, math.inf, -math.inf, 1.0)
    )
    assert canonical_json(tree).decode() == (
        '{"colour":"red","count":1,"either":0,"flag":false,"leaf":{"name":"é\\n","share":0.1},'
        '"leaves":[],"maybe":null,"pairs":[["a",2]],"rates":[{"$float":"nan"},{"$float":"inf"},'
        '{"$float":"-inf"},1.0],"widths":[]}'
    )


@given(FLOATS)
def test_a_float_stays_itself(value: float) -> None:
    text = canonical_json([value])
    assert same(parse_json(text)[0], value)
    json.loads(text, parse_constant=pytest.fail)  # no NaN, no Infinity: any reader can read it


@pytest.mark.parametrize("spelled", ["[]", "{}", "null", "true", "1.5", '"many"', '["nan"]'])
def test_what_spells_no_float_is_malformed(spelled: str) -> None:
    with pytest.raises(ValueError, match="float"):
        parse_json(f'{{"a":{{"$float":{spelled}}}}}')


@pytest.mark.parametrize("value", ["nan", "1.5", "", "many", None, 1, [], {}])
@pytest.mark.parametrize("beside", [0.5, math.nan])
def test_what_would_be_read_as_a_float_is_not_written(value: Any, beside: float) -> None:
    with pytest.raises(UsageError, match=r"^\{'\$float': .*give the mapping another key"):
        canonical_json({"b": beside, "a": [{"$float": value}]})
    more = {"a": {"$float": value, "c": beside}, "b": '{"$float":"nan"}'}
    assert repr(parse_json(canonical_json(more))) == repr(json.loads(json.dumps(more)))


@pytest.mark.parametrize("name", ["", "lea", "leaf_", "Count"])
def test_an_unknown_field_is_refused(name: str) -> None:
    plain = to_plain(Tree(1, Leaf("a"))) | {name: 1}
    with pytest.raises(ValueError, match=f"^Tree: unknown field '{name}'$"):
        from_plain(Tree, plain)


def test_an_unknown_field_inside_is_refused() -> None:
    plain = to_plain(Tree(1, Leaf("a"), leaves=(Leaf("b"),), maybe=Leaf("c")))
    places = [plain["leaf"], plain["leaves"][0], plain["maybe"]]
    for place in places:
        place["extra"] = 1
        with pytest.raises(ValueError, match=r"^Leaf: unknown field 'extra'$"):
            from_plain(Tree, plain)
        del place["extra"]
    assert from_plain(Tree, plain).leaves == (Leaf("b"),)


@pytest.mark.parametrize("name", ["count", "leaf"])
def test_a_missing_field_is_refused(name: str) -> None:
    plain = to_plain(Tree(1, Leaf("a")))
    del plain[name]
    with pytest.raises(ValueError, match=f"^Tree: missing field '{name}'$"):
        from_plain(Tree, plain)


def test_a_field_with_a_default_may_be_missing() -> None:
    tree = from_plain(Tree, {"count": 1, "leaf": {"name": "a"}})
    assert tree == Tree(1, Leaf("a"))


@pytest.mark.parametrize("wrong", ["text", 3, ["a"], None])
def test_something_else_in_the_place_of_an_object_is_refused(wrong: Any) -> None:
    with pytest.raises(
        ValueError, match=f"^Leaf: expected an object, got {type(wrong).__name__}$"
    ):
        from_plain(Tree, {"count": 1, "leaf": wrong})


@pytest.mark.parametrize(
    ("field", "wrong", "error"),
    [
        ("count", 1.0, TypeError),
        ("count", True, TypeError),  # Python takes True for 1; a count is none
        ("flag", 1, TypeError),
        ("either", 1.5, TypeError),
        ("rates", [0.1, "fast"], TypeError),
        ("rates", [0.1, True], TypeError),
        ("pairs", [["a", "2"]], TypeError),
        ("pairs", [["a", True]], TypeError),
        ("pairs", [[1, 2]], TypeError),
        ("pairs", [["a"]], ValueError),
        ("pairs", [["a", 2, 3]], ValueError),
    ],
)
def test_a_leaf_of_another_type_is_refused(
    field: str, wrong: Any, error: type[Exception]
) -> None:
    right = {"count": 1, "leaf": {"name": "a"}, "rates": [1, 0.5], "pairs": [["a", 2]]}
    assert from_plain(Tree, right).pairs == (("a", 2),)
    with pytest.raises(error):
        from_plain(Tree, right | {field: wrong})


def test_an_unknown_value_of_an_enum_is_refused() -> None:
    with pytest.raises(ValueError, match="'green' is not a valid Colour"):
        from_plain(Tree, {"count": 1, "leaf": {"name": "a"}, "colour": "green"})


@pytest.mark.parametrize("text", ["{", '{"a": 1}}', "", '{"a": nope}', "[1, 2"])
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expect|Extra"):
        parse_json(text)


def record() -> TrialRecord:
    """A record with something in every field."""
    spec = TrialSpec(
        workload="w", data="d", data_digest="0" * 64, arm="none",
        techniques=(("warmup", (("duration", "5ep"), ("start", 0.01))),), settings=Settings(),
        batch_size=8, lr=0.1, decay=Decay(at=("60%", "85%")), budget="3ep",
        seed=0,
    )  # fmt: skip
    return TrialRecord(
        spec=spec,
        outcome=Outcome.DIVERGED,
        reason="not finite",
        first_bad_update=3,
        updates=3,
        ledger=Ledger(
            num_train=1, num_test=2, num_classes=3, updates=4, updates_per_epoch=1.5,
            epochs=2.5, examples=6, dropped_per_epoch=7, batch_norm_group=8,
            batch_norm_horizon_epochs=0.25, accumulation=1, warmup_updates=2,
            lr_provenance="said",
        ),
        curves=Curves(train_loss=(1.0, math.nan), lr=(0.1,), test_accuracy=(0.5, None)),
        provenance=Provenance(
            seconds=1.0, compile_seconds=0.0, examples_per_second=math.inf, started="now",
            stacked=2, device="a", versions=(("torch", "2"),), numerics=(("threads", "1"),),
        ),
    )  # fmt: skip


def test_a_whole_record_survives() -> None:
    """A NaN in a curve stays one; the outcome, nested tuples and the id as well."""
    whole = record()
    again = from_plain(TrialRecord, parse_json(canonical_json(whole)))
    assert same(again, whole)
    assert again.trial_id == whole.trial_id
    assert isinstance(again.outcome, Outcome)
    bare = dataclasses.replace(whole, ledger=None, provenance=None, outcome=Outcome.INFEASIBLE)
    assert same(from_plain(TrialRecord, parse_json(canonical_json(bare))), bare)
