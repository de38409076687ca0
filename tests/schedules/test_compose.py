"""The whole table: the article's, laws of composition, and what cannot run as specified."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules.compose import Warmup, factors
from batchcliff.schedules.curves import cosine_decay, warmup_factor
from batchcliff.schedules.duration import Clock
from batchcliff.spec import Decay
from calls import calls

ARTICLE_WARMUP = Warmup(shape="exponential", start=0.01, duration="6ep", stepping="epoch")
ARTICLE_DECAY = Decay(at=("60%", "85%"), factor=0.1)


def article_factor(epoch: int, warmup: bool) -> float:
    """The article's `lr_scheduler`, as it stands in its code, over initial_lr."""
    if warmup and epoch <= 5:
        return float(10 ** (-2 + 0.4 * epoch))
    factor = 1.0
    if epoch >= 60:
        factor = 0.1
    if epoch >= 85:
        factor = 0.01
    return factor


@pytest.mark.parametrize("batch", [128, 256, 512, 1024, 2048, 4096, 8192])
@pytest.mark.parametrize("warmup", [True, False])
def test_golden_article(batch: int, warmup: bool) -> None:
    clock = Clock(50_000, batch, "drop").with_budget("100ep")
    table = factors(clock, ARTICLE_WARMUP if warmup else None, ARTICLE_DECAY)
    per_epoch = 50_000 // batch
    article = [article_factor(t // per_epoch, warmup) for t in range(100 * per_epoch)]
    assert len(table) == len(article)
    assert table == pytest.approx(article, rel=1e-15)
    in_epochs = factors(clock, ARTICLE_WARMUP if warmup else None, Decay(at=("60ep", "85ep")))
    assert table == in_epochs


WARMUPS = st.builds(
    Warmup,
    duration=st.integers(0, 40).map(lambda n: f"{n}up"),
    shape=st.sampled_from(["linear", "exponential", "cosine", "constant"]),
    start=st.one_of(st.none(), st.floats(0.01, 1)),
)
SIZES = st.tuples(st.integers(1, 60), st.integers(1, 90))


@given(warmup=WARMUPS, extra=st.integers(1, 50), at=st.lists(st.integers(0, 40), max_size=3))
def test_twin_each_update_by_itself(warmup: Warmup, extra: int, at: list[int]) -> None:
    count = int(str(warmup.duration).removesuffix("up"))
    total = max([count, *at]) + extra
    clock = Clock(10, 3, "carry", total)
    decay = Decay(at=tuple(f"{update}up" for update in at), factor=0.5)
    expected = []
    for t in range(total):
        factor = warmup_factor(t, count, warmup.shape, warmup.start)
        for update in at:
            if t >= update:
                factor /= 2
        expected.append(factor)
    assert factors(clock, warmup, decay) == expected  # powers of two: exact in any order


@given(
    size=SIZES,
    epochs=st.integers(1, 6),
    more=st.integers(0, 4),
    remainder=st.sampled_from(["drop", "carry"]),
)
def test_twin_staircase_is_constant_within_an_epoch(
    size: tuple[int, int], epochs: int, more: int, remainder: str
) -> None:
    n, batch = size
    if remainder == "drop" and batch > n:
        return
    clock = Clock(n, batch, remainder).with_budget(f"{epochs + more}ep")
    warmup = Warmup(duration=f"{epochs}ep", start=0.1, stepping="epoch")
    expected = [
        warmup_factor(clock.epoch_of(t), epochs, "linear", 0.1) for t in range(clock.total or 0)
    ]
    assert factors(clock, warmup) == expected


@given(size=SIZES, epochs=st.integers(1, 5))
def test_law_nothing_asked_is_all_ones(size: tuple[int, int], epochs: int) -> None:
    clock = Clock(*size, "carry").with_budget(f"{epochs}ep")
    ones = [1.0] * (clock.total or 0)
    assert factors(clock) == factors(clock, Warmup(duration=0)) == ones
    assert factors(clock, decay=Decay(kind="constant")) == ones
    assert factors(clock, Warmup(duration="0ep", stepping="epoch"), Decay()) == ones


def test_a_curve_begins_where_the_warmup_ends() -> None:
    clock = Clock(10, 1, total=10)
    table = factors(clock, Warmup(duration=4), cosine_decay)
    assert table == [0.25, 0.5, 0.75, 1.0] + [cosine_decay(t, 6) for t in range(6)]
    assert table[4] == 1.0


def test_a_warmup_may_last_for_the_whole_run() -> None:
    assert factors(Clock(4, 1, total=4), Warmup(duration="100%")) == [0.25, 0.5, 0.75, 1.0]


def test_what_cannot_run_as_specified_is_infeasible() -> None:
    clock = Clock(50_000, 8192).with_budget("5ep")
    with pytest.raises(Infeasible, match=r"warmup of '200up' is 200 updates.*8192.*\(30 up"):
        factors(clock, Warmup(duration=200))
    with pytest.raises(Infeasible, match=r"decay at '60ep' is update 360.*\(30 updates"):
        factors(clock, decay=Decay(at=("2ep", "60ep")))
    assert factors(clock, decay=Decay(at=("100%",))) == [1.0] * 30


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Warmup(duration="5.5ep", stepping="epoch"), "whole number of them"),
        (lambda: Warmup(duration="5%", stepping="epoch"), "whole number of them"),
        (lambda: Warmup(duration="5ep", stepping="batch"), "'update' or 'epoch'"),
        (lambda: Warmup(duration="5 epochs"), "Write '5ep'"),
        (lambda: Warmup(duration="5ep", shape="log"), "unknown warmup shape"),
        (lambda: Warmup(duration="5ep", shape="exponential", start=0), "cannot leave 0"),
        (lambda: factors(Clock(10, 1)), "Clock.with_budget"),
        (
            lambda: factors(Clock(10, 1, total=5), decay=Decay(kind="multstep")),
            "Did you mean 'multistep'?",
        ),
        (
            lambda: factors(Clock(10, 1, total=5), decay=Decay(kind="constant", at=("1up",))),
            "write 'multistep'",
        ),
    ],
)
def test_refused(make: object, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        make()  # type: ignore[operator]
    assert says in str(caught.value)


def test_a_long_run_takes_no_time() -> None:
    clock = Clock(40_000, 1).with_budget("1ep")
    warmup = Warmup(duration="100%", shape="cosine", start=0.0)
    assert len(factors(clock, warmup, ARTICLE_DECAY)) == 40_000
    assert calls(factors, clock, warmup, ARTICLE_DECAY) < 10 * 40_000  # five an update


def test_importing_schedules_imports_no_framework() -> None:
    code = (
        "import sys, batchcliff.schedules as s; print(sorted({m.split('.')[0] "
        "for m in sys.modules} & {'torch', 'numpy', 'scipy', 'keras', 'jax', 'pydantic'}))"
        "; print([name for name in s.__all__ if not hasattr(s, name)], s.__all__ == "
        "sorted(s.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "[] True"]
