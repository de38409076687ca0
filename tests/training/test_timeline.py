"""Timelines of runs whose batch size changes: closed forms against a walk, what cannot be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchcliff.errors import Infeasible
from batchcliff.schedules.batch_size import BatchSizes, Stage
from batchcliff.schedules.duration import Remainder
from batchcliff.training.timeline import Stretch, Timeline, changing


@dataclass
class Walked:
    """One update of the walk: where it begins, its epoch and its batch size."""

    position: int
    epoch: int
    batch_size: int


def walk(sizes: BatchSizes, total: int, size: int, remainder: Remainder) -> list[Walked]:
    """Update after update, as somebody would write it down."""
    found: list[Walked] = []
    position = 0
    while position < total:
        batch = sizes.stage_at(position).batch_size
        left = size - position % size
        if remainder == "drop" and left < batch:
            position += left  # what is left of the epoch is not seen
            continue
        found.append(Walked(position, position // size, batch))
        position += batch
    return found


@st.composite
def runs(draw: st.DrawFn) -> tuple[BatchSizes, int, int, Remainder]:
    """Sizes, positions of the run, examples of an epoch, remainder."""
    remainder: Remainder = draw(st.sampled_from(["carry", "drop"]))
    size = draw(st.integers(6, 30))
    batches = draw(st.lists(st.integers(1, size), min_size=1, max_size=4))
    unit = size if remainder == "drop" else 1
    gaps = [draw(st.integers(1, 4 if remainder == "drop" else 90)) for _ in batches]
    starts = [0]
    for gap in gaps:
        starts.append(starts[-1] + gap * unit)
    return BatchSizes(tuple(map(Stage, starts, batches))), starts[-1], size, remainder


@given(runs())
def test_twin_every_update_of_the_walk(run: tuple[BatchSizes, int, int, Remainder]) -> None:
    sizes, total, size, remainder = run
    walked = walk(sizes, total, size, remainder)
    try:
        found = changing(sizes, total, size, remainder, "grow")
    except Infeasible:  # a batch overshot a whole stage: the walk has no update of it
        seen = {id(sizes.stage_at(update.position)) for update in walked}
        assert len(seen) < len(sizes.stages)
        return
    assert found.updates == len(walked)
    assert found.examples == sum(update.batch_size for update in walked)
    for number, update in enumerate(walked):
        assert found.position(number) == update.position
        assert found.stretch_at(number).batch_size == update.batch_size
    ends = [
        number
        for number, (one, two) in enumerate(pairwise(walked), 1)
        if one.epoch != two.epoch
    ]
    assert found.epochs() == list(pairwise([0, *ends, len(walked)]))


@given(runs())
def test_law_pieces_are_the_epochs_cut_where_the_batch_changes(
    run: tuple[BatchSizes, int, int, Remainder],
) -> None:
    sizes, total, size, remainder = run
    try:
        timeline = changing(sizes, total, size, remainder, "grow")
    except Infeasible:
        assume(False)
    pieces = timeline.pieces()
    assert [p.first for p in pieces] == [0, *(p.last for p in pieces[:-1])]
    cuts = {s.last for s in timeline.stretches} | {last for _, last in timeline.epochs()}
    assert {p.last for p in pieces} == cuts
    for piece in pieces:
        assert timeline.stretch_at(piece.first).batch_size == piece.batch_size
        assert timeline.stretch_at(piece.last - 1).batch_size == piece.batch_size


def test_one_batch_size_is_one_stretch() -> None:
    plain = Timeline(40, "carry", (Stretch(first=0, last=10, start=0, batch_size=12),))
    assert plain.epochs() == [(0, 4), (4, 7), (7, 10)]
    assert [tuple(piece) for piece in plain.pieces()] == [(0, 4, 12), (4, 7, 12), (7, 10, 12)]
    assert plain.position(11) == 132  # after the end: what the run would see next
    assert plain.length_in_epochs == 3
    drop = Timeline(40, "drop", (Stretch(first=0, last=9, start=0, batch_size=12),))
    assert drop.epochs() == [(0, 3), (3, 6), (6, 9)]
    assert [drop.position(u) for u in (2, 3, 9)] == [24, 40, 120]


CANNOT: dict[str, tuple[list[tuple[int, int]], int, Remainder, str]] = {
    "too large": (
        [(0, 10), (80, 50)],
        120,
        "carry",
        (
            "grow: batch size 50 is larger than the training set (40 examples). Let it grow "
            "less."
        ),
    ),
    "inside of an epoch": (
        [(0, 10), (60, 20)],
        120,
        "drop",
        (
            "grow: the batch size 10 would end 1.5 epochs into the run, and with remainder = "
            "'drop' a batch size holds for whole epochs. Write whole epochs, or remainder = "
            "'carry'."
        ),
    ),
    "the end inside of an epoch": (
        [(0, 10), (40, 20)],
        100,
        "drop",
        (
            "grow: the batch size 20 would end 2.5 epochs into the run, and with remainder = "
            "'drop' a batch size holds for whole epochs. Write whole epochs, or remainder = "
            "'carry'."
        ),
    ),
    "after the end": (
        [(0, 10), (120, 20)],
        120,
        "carry",
        (
            "grow: no update of batch size 20 fits between 120 and 120 examples of a run of "
            "120. Write milestones inside of the run, and further apart."
        ),
    ),
    "too near": (
        [(0, 30), (31, 20), (35, 10)],
        120,
        "carry",
        (
            "grow: no update of batch size 20 fits between 31 and 35 examples of a run of 120. "
            "Write milestones inside of the run, and further apart."
        ),
    ),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_run(name: str) -> None:
    stages, total, remainder, message = CANNOT[name]
    sizes = BatchSizes(tuple(Stage(start, size) for start, size in stages))
    with pytest.raises(Infeasible, match=f"^{re.escape(message)}$"):
        changing(sizes, total, 40, remainder, "grow")


def test_a_batch_that_has_begun_is_not_cut() -> None:
    """One update of 20 begins at 40 and ends at 60: that of 30 follows there, not at 41."""
    sizes = BatchSizes((Stage(0, 10), Stage(40, 20), Stage(41, 30)))
    found = changing(sizes, 120, 40, "carry", "grow")
    assert [(s.first, s.last, s.start) for s in found.stretches] == [
        (0, 4, 0),
        (4, 5, 40),
        (5, 7, 60),
    ]
