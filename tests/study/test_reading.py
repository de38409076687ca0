"""Specifications out of records: the quick way is the slow way."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.canonical import from_plain, to_plain
from batchcliff.spec import Decay, Optimizer, Settings, TrialSpec
from batchcliff.study import reading
from batchcliff.study.reading import Labels, SpecReader

names = st.sampled_from(["none", "warmup", '"seed":0', 'an \\"seed\\":0 of another kind', "é"])
options = st.sampled_from([(), (("warmup", (("duration", "5ep"), ("seed", 0))),)])
specs = st.builds(
    TrialSpec,
    workload=names,
    data=names,
    data_digest=st.sampled_from(["", "d" * 64]),
    arm=names,
    techniques=options,
    settings=st.sampled_from(
        [Settings(), Settings(mixup=0.5), Settings(optimizer=Optimizer(name="lars"))]
    ),
    batch_size=st.sampled_from([32, 64]),
    lr=st.sampled_from([0.1, 1.0, float("inf"), float("nan")]),
    decay=st.sampled_from([Decay(), Decay(kind="cosine", floor=0.1)]),
    budget=st.just("2ep"),
    seed=st.integers(-(10**30), 10**30),
    validation=st.sampled_from([0.0, 0.1]),
)


@given(st.lists(specs, min_size=1, max_size=8))
def test_a_reader_gives_what_was_written_under_the_same_id(written: list[TrialSpec]) -> None:
    reader = SpecReader()
    for spec in written:
        plain = to_plain(spec)
        slow, quick = from_plain(TrialSpec, plain), reader.read(plain)
        assert repr(quick) == repr(slow)  # a NaN is not equal to itself
        assert quick.trial_id == dataclasses.replace(slow).trial_id == spec.trial_id


def test_a_seed_that_stands_twice_in_the_text_is_not_guessed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = specs_of(seed=3)
    plain = to_plain(spec)
    assert reading._cell(dataclasses.replace(spec, seed=0)) is not None
    monkeypatch.setattr(TrialSpec, "key", lambda self: {"a": {"seed": 0}, "seed": self.seed})
    assert reading._cell(dataclasses.replace(spec, seed=0)) is None
    assert SpecReader().read(plain) == spec


def test_the_quick_way_is_taken_once_for_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    slow = reading.from_plain
    monkeypatch.setattr(reading, "from_plain", lambda *a: built.append(a) or slow(*a))
    reader = SpecReader()
    for seed in range(5):
        assert reader.read(to_plain(specs_of(seed=seed))) == specs_of(seed=seed)
    reader.read(to_plain(specs_of(seed=0, lr=0.2)))
    assert len(built) == 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"seed": "1"}, TypeError),
        ({"seed": True}, TypeError),
        ({"seed": 1.5}, TypeError),
        ({"lr": "fast"}, TypeError),
        ({"colour": "red"}, ValueError),
        ({"settings": 3}, ValueError),
    ],
)
def test_what_is_no_specification_is_refused(
    changes: dict[str, Any], error: type[Exception]
) -> None:
    reader = SpecReader()
    plain = to_plain(specs_of())
    reader.read(plain)
    with pytest.raises(error):
        reader.read({**plain, **changes})
    for name in plain:
        if name != "semantics":  # which has a default
            with pytest.raises((KeyError, ValueError)):
                reader.read({k: v for k, v in plain.items() if k != name})


def specs_of(seed: int = 0, lr: float = 0.1) -> TrialSpec:
    return TrialSpec(
        workload="article", data="cifar10", data_digest="d" * 64, arm="none", techniques=(),
        settings=Settings(), batch_size=64, lr=lr, decay=Decay(), budget="2ep", seed=seed,
    )  # fmt: skip


@given(st.lists(specs, min_size=1, max_size=8))
def test_a_label_is_the_id_with_unknown_data(met: list[TrialSpec]) -> None:
    """Of specifications that share their parts, as those of a reader do, and of others."""
    reader, labels = SpecReader(), Labels()
    for spec in (*met, *(reader.read(to_plain(spec)) for spec in met)):
        assert labels.of(spec) == dataclasses.replace(spec, data_digest="").trial_id


def test_the_text_of_a_label_is_written_once_for_a_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[Any] = []
    slow = reading.canonical_json
    monkeypatch.setattr(reading, "canonical_json", lambda key: written.append(key) or slow(key))
    labels, first = Labels(), specs_of(seed=0)
    names = {labels.of(dataclasses.replace(first, seed=seed, arm=f"{seed}")) for seed in (1, 2)}
    assert len(names) == 2 and len(written) == 1
    labels.of(dataclasses.replace(first, lr=0.2))
    labels.of(dataclasses.replace(first, validation=0.1))
    assert len(written) == 3
