"""Batch sizes over a run: exact splits, and closed forms against a walk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules.batch_size import (
    BatchSizes,
    Stage,
    batch_sizes,
    batch_warmup,
    examples,
    grow_instead_of_decay,
    split,
)


@given(batch=st.integers(1, 3000), most=st.integers(1, 3000), devices=st.integers(1, 8))
def test_twin_split_is_exact_and_the_largest(batch: int, most: int, devices: int) -> None:
    if batch % devices:
        with pytest.raises(Infeasible, match=f"not divisible by {devices} devices"):
            split(batch, most, devices)
        return
    micro, accumulation = split(batch, most, devices)
    assert micro * accumulation * devices == batch
    share = batch // devices
    assert micro == max(size for size in range(1, most + 1) if share % size == 0)


def test_golden_split() -> None:
    assert split(8192, 1024, devices=2) == (1024, 4)
    assert split(96, 64) == (48, 2)
    assert split(127, 100) == (1, 127)
    assert split(32, 1024) == (32, 1)
    for bad in (0, -4, 1.5, True):
        with pytest.raises(UsageError, match="max_micro_batch"):
            split(32, bad)  # type: ignore[arg-type]


@st.composite
def schedules(draw: st.DrawFn) -> BatchSizes:
    gaps = draw(st.lists(st.integers(1, 60), max_size=4))
    starts = [0]
    for gap in gaps:
        starts.append(starts[-1] + gap)
    sizes = draw(st.lists(st.integers(1, 25), min_size=len(starts), max_size=len(starts)))
    return BatchSizes(tuple(map(Stage, starts, sizes)))


@given(sizes=schedules(), total=st.integers(0, 400))
def test_twin_closed_forms_agree_with_a_walk(sizes: BatchSizes, total: int) -> None:
    seen, update = 0, 0
    while seen < total:
        stage = max(
            (stage for stage in sizes.stages if stage.start <= seen), key=lambda s: s.start
        )
        assert sizes.stage_at(seen) == stage
        assert sizes.locate(update) == (seen, stage)
        seen, update = seen + stage.batch_size, update + 1
    assert sizes.updates(total) == update


def test_golden_smith() -> None:
    n = 50_000
    grown = grow_instead_of_decay(128, ["60ep", "120ep", "160ep"], 0.2, n)
    assert [stage.batch_size for stage in grown.stages] == [128, 640, 3200, 16000]
    assert {stage.lr_factor for stage in grown.stages} == {1.0}
    assert grown.updates(200 * n) == pytest.approx(29_000, rel=0.02)  # their table: ~29,000
    capped = grow_instead_of_decay(128, ["60ep", "120ep", "160ep"], 0.2, n, n // 10)
    assert [stage.batch_size for stage in capped.stages] == [128, 640, 3200, 3200]
    assert capped.stages[-1].lr_factor == 0.2
    assert grow_instead_of_decay(128, ["60ep"], 0.2, n, 640).stages[-1].batch_size == 640
    assert grow_instead_of_decay(128, ["60ep"], 0.2, n, 639).stages[-1].batch_size == 128


@given(
    factor=st.sampled_from([0.5, 0.25, 0.2, 0.1]),
    count=st.integers(1, 4),
    cap=st.one_of(st.none(), st.integers(1, 10**5)),
)
def test_law_growth_keeps_the_noise_scale_of_the_decay(
    factor: float, count: int, cap: int | None
) -> None:
    milestones = [f"{10 * (i + 1)}ep" for i in range(count)]
    stages = grow_instead_of_decay(100, milestones, factor, 1000, cap).stages
    for index, stage in enumerate(stages):
        assert stage.lr_factor / stage.batch_size == pytest.approx(factor**index / 100)
        assert cap is None or stage.batch_size <= max(cap, 100)


def test_golden_batch_warmup_is_megatrons() -> None:
    ramp = batch_warmup(32, 128, 32, "300ex", 1000)
    assert ramp.stages == (Stage(0, 32), Stage(100, 64), Stage(200, 96), Stage(300, 128))
    assert ramp.locate(4) == (128, Stage(100, 64))  # 4 x 32 overshoots 100: no batch is cut


def test_lengths_are_counted_in_examples() -> None:
    assert (examples("0.29ep", 100), examples("5ex", 100)) == (29, 5)
    assert examples("60%", 100, total=1001) == 601
    assert batch_sizes([("0ep", 8), ("2ep", 16)], 10).stages == (Stage(0, 8), Stage(20, 16))
    with pytest.raises(UsageError, match="updates have no fixed size"):
        examples("5up", 100)
    with pytest.raises(UsageError, match="length is not known"):
        examples("5%", 100)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BatchSizes(()), "must start at 0"),
        (lambda: batch_sizes([("1ep", 8)], 10), "must start at 0"),
        (
            lambda: batch_sizes([("0ep", 8), ("2ep", 16), ("1ep", 32)], 10),
            "after the one before",
        ),
        (lambda: batch_sizes([("0ep", 0)], 10), "batch_size = 0"),
        (lambda: grow_instead_of_decay(8, ["1ep"], 0.3, 10), "whole factors"),
        (lambda: grow_instead_of_decay(8, ["1ep"], 1.0, 10), "whole factors"),
        (lambda: grow_instead_of_decay(8, ["1ep"], 0.0, 10), "whole factors"),
        (lambda: batch_warmup(32, 128, 50, "1ep", 10), "whole number of increments"),
        (lambda: batch_warmup(128, 32, 32, "1ep", 10), "whole number of increments"),
        (lambda: batch_warmup(1, 9, 1, "2ex", 10), "after the one before"),
    ],
)
def test_refused(make: object, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()  # type: ignore[operator]
    assert says in str(caught.value)
