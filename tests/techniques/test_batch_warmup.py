"""Batch warmup as an option of an arm: its steps, its rates, and what is refused."""

from __future__ import annotations

import re

import pytest
from small_trials import facts_of, run, small_data, small_spec

from batchcliff.errors import Infeasible, UsageError
from batchcliff.record import Outcome
from batchcliff.study.grid import trials
from batchcliff.studyfile import parse_study
from batchcliff.techniques import technique
from batchcliff.techniques.batch_warmup import BatchWarmup
from batchcliff.training.arithmetic import DataFacts, learning_rates, ledger

FACTS = DataFacts(num_train=50_000, num_test=10, num_classes=10, image_shape=(8, 8, 1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"duration": "5ep"}, [(1024, 1.6), (8192, 12.8)]),
        ({"duration": "5%", "start": 2}, [(4096, 6.4), (8192, 12.8)]),
        (
            {"duration": "250000ex", "steps": 7},
            [(1024 * i, 1.6 * i) for i in range(1, 9)],
        ),
        ({"duration": "5ep", "scale_lr": False}, [(1024, 12.8), (8192, 12.8)]),
    ],
)
def test_golden_steps_at_cifars_size(
    options: dict[str, object], expected: list[tuple[int, float]]
) -> None:
    warmup = technique("batch-warmup", options)
    spec = warmup.applied(small_spec(batch_size=8192, lr=12.8, budget="100ep"))
    found = ledger(spec, FACTS)
    assert [(s.batch_size, s.lr) for s in found.stages] == [
        (size, pytest.approx(lr)) for size, lr in expected
    ]
    first = sum(s.updates * s.batch_size for s in found.stages[:-1])
    assert 250_000 <= first < 250_000 + 8192 * len(expected)
    assert spec.batch_size == 8192  # the axis of the study: the batch of the rest of the run


def test_a_warmup_of_the_rate_beside_it_is_counted_in_examples() -> None:
    """Both over the first 10 batches of 20: the rate of an update is the product of the two."""
    plain = small_spec(
        batch_size=20,
        budget="10ep",
        lr=1.0,
        techniques=(("warmup", (("duration", "5ep"),)),),
    )
    spec = BatchWarmup(duration="5ep", start=2).applied(plain)
    table, rates = learning_rates(plain, 40), learning_rates(spec, 40)
    assert table[:10] == pytest.approx([(u + 1) / 10 for u in range(10)])
    assert rates[:20] == pytest.approx([table[u // 2] / 2 for u in range(20)])
    assert rates[20:] == table[10:]
    assert ledger(spec, facts_of(small_data())).warmup_updates == 20


def test_one_trial_from_end_to_end() -> None:
    spec = BatchWarmup(duration="2ep", start=4).applied(small_spec(batch_size=20))
    plain, warmed = (
        run([s], small_data()).records[0] for s in (small_spec(batch_size=20), spec)
    )
    assert warmed.outcome is plain.outcome is Outcome.OK
    assert (plain.updates, warmed.updates) == (6, 18)
    assert warmed.examples == plain.examples == 120
    assert warmed.curves.train_loss != plain.curves.train_loss


REFUSED = {
    "updates": ('{ duration = "50up" }', "duration", "updates have no fixed size"),
    "nothing": ('{ duration = "0ep" }', "duration", "0ep is no length"),
    "start": ('{ duration = "1ep", start = 1 }', "start", "at least 2"),
    "steps": ('{ duration = "1ep", steps = 0 }', "steps", "at least 1"),
    "missing": ("{ start = 4 }", "", "duration is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_by_its_key(case: str) -> None:
    options, key, message = REFUSED[case]
    text = (
        'name = "s"\nworkload = "digits"\nbatch_sizes = [16]\nseeds = 1\n[arms.none]\n'
        f"[arms.warm]\nbatch-warmup = {options}\n"
    )
    with pytest.raises(UsageError) as caught:
        parse_study(text)
    place = "arms.warm.batch-warmup" + (f".{key}" if key else "")
    assert re.match(r"<?[^:]*:7: " + re.escape(place), str(caught.value))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"start": 3},
            (
                "batch-warmup.start: batch size 64 is not divisible by 3. Write a divisor, or "
                "a batch size such as 63."
            ),
        ),
        (
            {"steps": 5},
            (
                "batch-warmup.steps: the way from 8 to 64 is not divisible by 5. Write e.g. "
                "steps = 7."
            ),
        ),
    ],
)
def test_what_does_not_divide_is_infeasible(options: dict[str, int], message: str) -> None:
    with pytest.raises(Infeasible, match=f"^{re.escape(message)}$"):
        BatchWarmup(duration="1ep", **options).sizes(64, 1000, 5000)


def test_an_arm_of_a_study() -> None:
    text = (
        'name = "s"\nworkload = "digits"\nbatch_sizes = [16, 32]\nseeds = 1\n[arms.none]\n'
        '[arms.warm]\nbatch-warmup = { duration = "1ep", start = 2 }\n'
    )
    found = [s for s in trials(parse_study(text), "d" * 64) if s.arm == "warm"]
    assert {s.techniques for s in found} == {
        (("batch-warmup", (("duration", "1ep"), ("start", 2))),)
    }
