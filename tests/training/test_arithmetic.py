"""The arithmetic of a trial: the article's table, its learning rates, what cannot run."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_trials import ARTICLE_DECAY, ARTICLE_WARMUP, small_spec, with_settings

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules.scaling import scale_lr
from batchcliff.spec import Decay, Settings, TrialSpec
from batchcliff.training.arithmetic import (
    DataFacts,
    arithmetic,
    batch_norm_group,
    clock_of,
    learning_rates,
    ledger,
    shape_key,
    warmup_of,
)

FACTS = DataFacts(num_train=50_000, num_test=10_000, num_classes=10, image_shape=(32, 32, 3))

# batch size, updates an epoch, updates of 100 epochs, lr, batch-norm images a core, horizon
# in epochs: the table of SCIENCE.md, section 0, which was computed by hand
TABLE = [
    (128, 390, 39000, 0.1, 16, "0.26"),
    (256, 195, 19500, 0.2, 32, "0.51"),
    (512, 97, 9700, 0.4, 64, "1.03"),
    (1024, 48, 4800, 0.8, 128, "2.08"),
    (2048, 24, 2400, 1.6, 256, "4.17"),
    (4096, 12, 1200, 3.2, 512, "8.33"),
    (8192, 6, 600, 6.4, 1024, "16.67"),
]
BATCHES = [row[0] for row in TABLE]


def article(batch_size: int, warmup: bool = True, **changes: Any) -> TrialSpec:
    values = {
        "settings": Settings(),
        "batch_size": batch_size,
        "lr": scale_lr(0.1, 128, batch_size, "linear"),
        "decay": ARTICLE_DECAY,
        "budget": "100ep",
        "techniques": ARTICLE_WARMUP if warmup else (),
    }
    return small_spec(**{**values, **changes})


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row[0]))
def test_golden_article(row: tuple[int, int, int, float, int, str]) -> None:
    batch, per_epoch, updates, lr, group, horizon = row
    spec = article(batch)
    found = ledger(spec, FACTS, lr_provenance="as told")
    assert (found.updates_per_epoch, found.updates) == (per_epoch, updates)
    assert (spec.lr, found.batch_norm_group) == (lr, group)
    assert f"{found.batch_norm_horizon_epochs:.2f}" == horizon
    assert found.warmup_updates == 6 * per_epoch
    assert found.epochs == 100
    assert found.examples == updates * batch
    assert found.dropped_per_epoch == 50_000 - per_epoch * batch
    assert (found.num_train, found.num_test, found.num_classes) == (50_000, 10_000, 10)
    assert found.accumulation == 1
    assert found.lr_provenance == "as told"
    assert ledger(article(batch, warmup=False), FACTS).warmup_updates == 0


def wrap_scheduler(initial_lr: float, use_warm_up: bool) -> Any:
    """The article's own function, word for word."""

    def lr_scheduler(epoch: int) -> float:
        if use_warm_up and epoch <= 5:
            return 10 ** (-2.0 + 0.4 * epoch) * initial_lr
        x = initial_lr
        if epoch >= 60:
            x /= 10.0
        if epoch >= 85:
            x /= 10.0
        return x

    return lr_scheduler


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("warmup", [False, True])
def test_twin_of_the_articles_scheduler(batch: int, warmup: bool) -> None:
    """Every update of both arms at all seven batch sizes, to the last bits."""
    scheduler = wrap_scheduler(0.1 * batch / 128, warmup)
    per_epoch = 50_000 // batch
    expected = [scheduler(epoch) for epoch in range(100) for _ in range(per_epoch)]
    rates = learning_rates(article(batch, warmup), 50_000)
    assert len(rates) == len(expected)
    assert rates == pytest.approx(expected, rel=1e-14)


def test_golden_rates_of_every_epoch() -> None:
    rates = learning_rates(article(8192), 50_000)[::6]
    share = [f"{rate / 6.4:.4f}" for rate in rates]
    assert share[:6] == ["0.0100", "0.0251", "0.0631", "0.1585", "0.3981", "1.0000"]
    assert share[6:60] == ["1.0000"] * 54
    assert share[60:85] == ["0.1000"] * 25
    assert share[85:] == ["0.0100"] * 15


CANNOT = {
    "larger than the data": (
        {"batch_size": 65536},
        "batch size 65536 is larger than the training set (50000 examples)",
    ),
    "not divisible by 8": (
        {"batch_size": 100},
        (
            "batch size 100 is not divisible by 8 (batch_norm.group = 'B/8': 8 groups share "
            "an update)"
        ),
    ),
    "not divisible by the ghost size": (
        {"batch_size": 100, "settings": with_settings(Settings(), batch_norm__group=32)},
        "batch size 100 is not divisible by the ghost size 32 (batch_norm.group = 32)",
    ),
    "group of one": (
        {"batch_size": 8},
        "batch norm needs at least 2 examples a group, not 1",
    ),
    "ghost size of one": (
        {"batch_size": 8, "settings": with_settings(Settings(), batch_norm__group=1)},
        "batch norm needs at least 2 examples a group, not 1",
    ),
    "warmup longer than the run": (
        {"batch_size": 8192, "budget": "5ep"},
        (
            'warmup.duration = "6ep" is 36 updates at batch size 8192, longer than the whole '
            'run of 30. Write a share of the run, such as "5%", or a longer budget.'
        ),
    ),
    "warmup of less than half an update": (
        {"batch_size": 8192, "techniques": (("warmup", (("duration", "0.05ep"),)),)},
        (
            'warmup.duration = "0.05ep" is 0.3 of an update at batch size 8192 and rounds to '
            "nothing. Write a longer one, or leave this batch size out."
        ),
    ),
}


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_run_says_why(name: str) -> None:
    changes, message = CANNOT[name]
    with pytest.raises(Infeasible, match=f"^{re.escape(message)}$"):
        ledger(article(**{"batch_size": 8192, **changes}), FACTS)


def test_the_borders_of_what_can_run() -> None:
    assert ledger(article(16, warmup=False), FACTS).batch_norm_group == 2
    assert ledger(article(8192, budget="6ep"), FACTS).warmup_updates == 36
    whole = article(50_000, warmup=False)  # all of the data, and divisible by 8
    assert ledger(whole, FACTS).updates_per_epoch == 1


def test_what_can_run_by_trial() -> None:
    """The whole schedule decides, not the ledger alone; every seed has what its cell has."""
    late = Decay(kind="multistep", at=("1000up",), factor=0.1)
    specs = [
        article(batch, seed=seed, decay=late) for seed in (0, 1) for batch in (128, 8192, 65536)
    ]
    assert ledger(specs[1], FACTS).updates == 600  # the ledger alone sees nothing wrong
    ledgers, reasons = arithmetic(specs, FACTS, lambda spec: f"rate of {spec.batch_size}")
    by_cell = {(s.batch_size, s.seed): s.trial_id for s in specs}
    assert ledgers == {
        by_cell[128, seed]: ledger(specs[0], FACTS, "rate of 128") for seed in (0, 1)
    }
    assert reasons == {
        by_cell[batch, seed]: text
        for seed in (0, 1)
        for batch, text in (
            (
                8192,
                (
                    "decay at '1000up' is update 1000 at batch size 8192, after the end of "
                    "the run (600 updates). Write a share of it, such as '60%'."
                ),
            ),
            (
                65536,
                "batch size 65536 is larger than the training set (50000 examples)",
            ),
        )
    }
    with pytest.raises(UsageError, match="unknown kind of decay 'multistop'"):
        arithmetic([article(128, decay=Decay(kind="multistop"))], FACTS, str)


@pytest.mark.parametrize("remainder", ["drop", "carry"])
@given(batch=st.integers(2, 60), train=st.integers(60, 200), epochs=st.integers(1, 5))
def test_law_of_the_ledger(remainder: str, batch: int, train: int, epochs: int) -> None:
    settings = with_settings(Settings(), batch_norm__group="global", remainder=remainder)
    spec = article(batch, warmup=False, settings=settings, budget=f"{epochs}ep")
    found = ledger(
        spec, DataFacts(num_train=train, num_test=1, num_classes=2, image_shape=(8, 8, 1))
    )
    seen = found.examples
    if remainder == "drop":
        assert found.dropped_per_epoch == train - found.updates_per_epoch * batch
        assert found.epochs == epochs
        assert seen + epochs * found.dropped_per_epoch == epochs * train
    else:
        assert found.dropped_per_epoch == 0
        assert epochs * train <= seen < epochs * train + batch  # the fewest that show it all
    assert len(learning_rates(spec, train)) == found.updates


def test_horizon_of_statistics_that_never_move() -> None:
    still = with_settings(Settings(), batch_norm__momentum=1.0)
    assert ledger(article(128, settings=still), FACTS).batch_norm_horizon_epochs == 0


def test_warmup_is_found_among_the_techniques() -> None:
    warmup = warmup_of(article(128))
    assert warmup is not None
    assert (warmup.shape, warmup.start, warmup.duration) == ("exponential", 0.01, "6ep")
    assert warmup_of(article(128, warmup=False)) is None


def test_groups() -> None:
    for group, expected in {"global": 64, "B/8": 8, "B/4": 16, 16: 16, 64: 64}.items():
        settings = with_settings(Settings(), batch_norm__group=group)
        assert batch_norm_group(article(64, settings=settings)) == expected


def test_the_shape_leaves_out_what_compiled_code_does_not_see() -> None:
    base = article(128)
    same = [
        article(128, warmup=False),
        article(128, seed=5),
        article(128, lr=3.0),
        article(128, decay=Decay(kind="constant")),
        article(128, arm="another"),
    ]
    assert {shape_key(spec) for spec in same} == {shape_key(base)}
    others = [
        article(256),
        article(128, budget="50ep"),
        article(128, workload="another"),
        article(128, data_digest="1" * 64),
        article(128, settings=with_settings(Settings(), loss="logits")),
        article(128, settings=with_settings(Settings(), optimizer__momentum=0.5)),
        article(128, settings=with_settings(Settings(), batch_norm__group=32)),
    ]
    keys = {shape_key(spec) for spec in others}
    assert len(keys) == len(others)
    assert shape_key(base) not in keys


def test_clock_of_a_trial() -> None:
    carry = with_settings(Settings(), remainder="carry")
    assert clock_of(article(128, settings=carry), 50_000).total == 39_063  # ceil(390.625 x 100)
    assert clock_of(article(128), 50_000).total == 39_000
    assert clock_of(article(128, budget="7up"), 50_000).total == 7
