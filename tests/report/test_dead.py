"""Dead networks, told from recorded curves: the rule, what is near it, what the page says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from synthetic import Synthetic

from batchcliff.record import Outcome, TrialRecord
from batchcliff.report.content import make_content
from batchcliff.report.ledger import FLAGS
from batchcliff.stats.dead import ceiling, dead_since


@pytest.fixture
def record(synthetic: Synthetic) -> TrialRecord:
    """An ok trial of ten classes with the clipped loss."""
    return synthetic.records(diverged=False)[0]


def with_loss(
    record: TrialRecord, loss: tuple[float, ...], norms: tuple[float, ...] = ()
) -> TrialRecord:
    curves = replace(record.curves, train_loss=loss, gradient_norm_max=norms)
    return replace(record, curves=curves)


def test_the_ceiling_is_what_a_certain_network_pays() -> None:
    """Mean of the clipped loss over ten examples, one of each class, from the definition."""
    eps = 1e-7
    losses = [-math.log(min(max(1.0 if k == 3 else 0.0, eps), 1 - eps)) for k in range(10)]
    assert ceiling(10) == pytest.approx(sum(losses) / 10, rel=1e-6)
    assert ceiling(10) == pytest.approx(14.51, abs=0.005)


def test_a_loss_at_the_ceiling_to_the_end_is_dead(record: TrialRecord) -> None:
    top = ceiling(10)
    assert dead_since(with_loss(record, (2.3, 9.0, top, top * 1.001, top, top))) == 3
    assert dead_since(with_loss(record, (top, top, top))) == 1


@pytest.mark.parametrize(
    "loss",
    [
        (2.3, ceiling(10), ceiling(10)),  # two epochs may be a visit
        (*(ceiling(10),) * 5, 2.0),  # it came back
        (*(ceiling(10),) * 2, 13.9, ceiling(10), ceiling(10)),  # it moved in between
        (14.0,) * 9,  # constant, but not at the ceiling
        (math.log(10),) * 9,  # chance, no gradients recorded: perhaps it learns slowly
        (2.3048, 2.3038, 2.3077, 2.3087),
        (ceiling(10), ceiling(10), math.nan),
        (),
    ],
)
def test_what_is_near_it_is_not_dead(record: TrialRecord, loss: tuple[float, ...]) -> None:
    assert dead_since(with_loss(record, loss)) is None


def test_ln_k_needs_zero_gradients(record: TrialRecord) -> None:
    loss = (2.5, *(math.log(10),) * 3)
    assert dead_since(with_loss(record, loss, (1.0, 0.0, 0.0, 0.0))) == 2
    assert dead_since(with_loss(record, loss, (1.0, 0.0, 0.0, 1e-6))) is None
    assert dead_since(with_loss(record, (2.5, 1.0, 1.0, 1.0), (0.0,) * 4)) is None


def test_other_losses_have_other_ceilings(record: TrialRecord) -> None:
    dead = with_loss(record, (ceiling(10),) * 4)
    for change in ({"loss": "logits"}, {"label_smoothing": 0.1}, {"mixup": 0.2}):
        settings = replace(dead.spec.settings, **change)
        assert dead_since(replace(dead, spec=replace(dead.spec, settings=settings))) is None
    assert dead_since(replace(dead, outcome=Outcome.DIVERGED)) is None
    assert dead_since(replace(dead, ledger=None)) is None


def test_the_ledger_flags_it_and_the_warning_says_so(synthetic: Synthetic) -> None:
    records = synthetic.records(diverged=False)
    place = next(i for i, r in enumerate(records) if r.spec.batch_size == 8192)
    records[place] = with_loss(records[place], (2.3, *(ceiling(10),) * 99))
    content = make_content(synthetic.study, records, synthetic.planned())
    row = next(r for r in content.ledger if "dead-network" in r.flags)
    assert (row.arm, row.batch_size, row.dead) == ("none", 8192, (2,))
    said = [w for w in content.warnings if "network is dead" in w]
    assert len(said) == 1 and said[0].startswith("none at 8,192: ")
    assert "(1 trial, the first from epoch 2 on)" in said[0]
    assert "14.51" in said[0] and "last 3 epochs" in FLAGS["dead-network"]


def test_living_networks_are_not_flagged(synthetic: Synthetic) -> None:
    content = make_content(synthetic.study, synthetic.records(), synthetic.planned())
    assert not any("dead-network" in row.flags for row in content.ledger)
    assert not any("dead" in warning for warning in content.warnings)
