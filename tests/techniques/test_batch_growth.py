"""Batch growth as an option of an arm: what it resolves into, and what is refused."""

from __future__ import annotations

import re

import pytest
from digit_trials import trained
from small_trials import small_spec

from batchcliff.canonical import canonical_json, from_plain, parse_json
from batchcliff.errors import Infeasible, UsageError
from batchcliff.record import Outcome
from batchcliff.spec import Decay, TrialSpec
from batchcliff.study.grid import trials
from batchcliff.studyfile import parse_study
from batchcliff.techniques import technique
from batchcliff.techniques.batch_growth import BatchGrowth
from batchcliff.training.arithmetic import DataFacts, ledger

STUDY = """
name = "s"
workload = "digits"
batch_sizes = [16]
seeds = 1
budget = "5ep"
decay = {decay}

[arms.none]

[arms.grow]
{arm}
"""
FIFTHS = '{ kind = "multistep", at = ["40%", "4ep"], factor = 0.2 }'


def arm(text: str, decay: str = FIFTHS) -> TrialSpec:
    """The trial of the arm that grows."""
    study = parse_study(STUDY.format(arm=text, decay=decay))
    return next(spec for spec in trials(study, "d" * 64) if spec.arm == "grow")


def test_milestones_and_factor_are_the_decays_own() -> None:
    spec = arm("batch-growth = {}")
    assert spec.techniques == (("batch-growth", (("at", ("40%", "4ep")), ("factor", 5))),)
    assert spec.decay == Decay(kind="constant")
    spelled = arm('batch-growth = { at = ["40.0%", "4.0ep"], factor = 5, most = "N/10" }')
    assert spelled.trial_id == spec.trial_id  # two spellings of one trial
    other = arm('batch-growth = { at = ["60%"], factor = 2, most = 100 }')
    assert other.techniques == (
        ("batch-growth", (("at", ("60%",)), ("factor", 2), ("most", 100))),
    )
    assert other.decay == Decay(kind="constant")


def test_a_spec_survives_its_way_to_a_worker() -> None:
    """Through JSON, where a tuple is a list: equal, hashable, and still a technique."""
    spec = arm("batch-growth = {}")
    back = from_plain(TrialSpec, parse_json(canonical_json(spec)))
    assert back == spec
    assert hash(back) == hash(spec)
    assert technique(*back.techniques[0]) == technique(*spec.techniques[0])


def test_golden_smith_at_cifars_size() -> None:
    """1711.00489: 128, 640, 3,200, and the last decay of the rate, since 16,000 > N/10."""
    decay = Decay(kind="multistep", at=("60ep", "120ep", "160ep"), factor=0.2)
    spec = BatchGrowth().applied(small_spec(batch_size=128, decay=decay, budget="200ep"))
    facts = DataFacts(num_train=50_000, num_test=10, num_classes=10, image_shape=(8, 8, 1))
    found = ledger(spec, facts)
    assert [(s.batch_size, s.lr) for s in found.stages] == [
        (128, 0.1), (640, 0.1), (3200, 0.1), (3200, pytest.approx(0.02)),
    ]  # fmt: skip
    assert found.updates == pytest.approx(29_000, rel=0.04)  # their table: about 29,000
    whole = BatchGrowth(most="N/1").applied(
        small_spec(batch_size=128, decay=decay, budget="200ep")
    )
    assert [s.batch_size for s in ledger(whole, facts).stages] == [128, 640, 3200, 16000]


def test_one_trial_on_digits_from_end_to_end() -> None:
    """Finite, with fewer updates than the decayed trial, the same until the batch grows."""
    grown, none = arm("batch-growth = { most = 400 }"), arm('optimizer = { form = "torch" }')
    ours, plain = trained(grown), trained(none)
    assert ours.outcome is plain.outcome is Outcome.OK
    assert (ours.updates, plain.updates) == (128 + 26 + 3, 320)
    assert ours.accuracy is not None and ours.accuracy > 0.5
    assert ours.curves.train_loss[2:] != plain.curves.train_loss[2:]


REFUSED: dict[str, tuple[str, str, str, str]] = {
    "updates": (
        FIFTHS, 'batch-growth = { at = ["200up"] }', "batch-growth.at",
        "'200up' with a batch size that changes: updates have no fixed size. Write epochs",
    ),
    "no duration": (
        FIFTHS, 'batch-growth = { at = ["often"] }', "batch-growth.at", "is not understood",
    ),
    "one": (FIFTHS, "batch-growth = { factor = 1 }", "batch-growth.factor", "at least 2"),
    "half": (FIFTHS, "batch-growth = { factor = 2.5 }", "batch-growth.factor", "whole number"),
    "no whole factor": (
        '{ kind = "multistep", at = ["40%"], factor = 0.3 }', "batch-growth = {}",
        "batch-growth", "the decay's factor 0.3 is not 1 over a whole number",
    ),
    "no share": (
        FIFTHS, 'batch-growth = { most = "10%" }', "batch-growth.most",
        "'10%' is no largest batch. Write examples, such as 4096, or a share of the training",
    ),
    "no milestones": (
        '{ kind = "cosine" }', "batch-growth = {}", "batch-growth",
        'a cosine decay has no milestones to grow at. Write e.g. at = ["60%", "85%"].',
    ),
    "no factor": (
        '{ kind = "cosine" }', 'batch-growth = { at = ["60%"] }', "batch-growth",
        "is missing. Write e.g. factor = 5.",
    ),
    "after the end": (
        FIFTHS, 'batch-growth = { at = ["2ep", "6ep"] }', "batch-growth.at",
        "6ep is not inside of the run of 5ep.",
    ),
    "descending": (
        FIFTHS, 'batch-growth = { at = ["60%", "2ep"] }', "batch-growth.at",
        "60%, 2ep do not ascend",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_by_its_key(case: str) -> None:
    decay, text, key, message = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        arm(text, decay)
    assert re.match(r"<?[^:]*:\d+: arms\.grow\." + re.escape(key), str(caught.value))
    assert message in str(caught.value)


def test_a_budget_in_updates_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the budget is '200up' with a batch size that chang"):
        BatchGrowth(at=("60%",), factor=2).applied(small_spec(budget="200up"))


def test_two_techniques_of_the_batch_size_are_refused() -> None:
    with pytest.raises(UsageError, match="'batch-growth' and 'batch-warmup' both fill"):
        arm('batch-growth = {}\nbatch-warmup = { duration = "1ep" }')


@pytest.mark.parametrize(("batch_size", "fits"), [(20, True), (21, False)])
def test_the_first_growth_must_fit_into_the_largest_batch(batch_size: int, fits: bool) -> None:
    growth = BatchGrowth(at=("50%",), factor=5)
    if fits:
        sizes = growth.sizes(batch_size, 1000, 5000)
        assert [stage.batch_size for stage in sizes.stages] == [20, 100]
        return
    with pytest.raises(Infeasible, match=r"5 x batch size 21 = 105 passes most = N/10 = 100"):
        growth.sizes(batch_size, 1000, 5000)
