"""Longer training: as many updates as the reference batch, and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_trials import run, small_data, small_spec

from batchcliff.errors import NoEffect, UsageError
from batchcliff.spec import Decay, TrialSpec
from batchcliff.study.grid import trials
from batchcliff.studyfile import parse_study
from batchcliff.techniques.longer_training import LongerTraining
from batchcliff.training.arithmetic import DataFacts, learning_rates, ledger

STUDY = """
name = "s"
workload = "digits"
batch_sizes = {sizes}
seeds = 1
budget = "{budget}"
decay = {{ kind = "multistep", at = ["40%", "8ep"], factor = 0.5 }}

[arms.none]

[arms.long]
{arm}
"""


def arm(text: str, sizes: str = "[16, 64]", budget: str = "10ep") -> list[TrialSpec]:
    """The trials of the arm that trains longer, the largest batch first."""
    study = parse_study(STUDY.format(arm=text, sizes=sizes, budget=budget))
    return [spec for spec in trials(study, "d" * 64) if spec.arm == "long"]


@given(
    batch=st.integers(2, 300),  # batch norm needs two
    reference=st.integers(2, 300),
    size=st.integers(300, 500),
    epochs=st.integers(1, 5),
)
def test_law_no_fewer_updates_than_the_reference_batch(
    batch: int, reference: int, size: int, epochs: int
) -> None:
    facts = DataFacts(num_train=size, num_test=1, num_classes=2, image_shape=(8, 8, 1))
    spec = small_spec(batch_size=batch, budget=f"{epochs}ep")
    longer = LongerTraining(reference_batch_size=reference).applied(spec)
    least = ledger(small_spec(batch_size=reference, budget=f"{epochs}ep"), facts).updates
    found = ledger(longer, facts).updates
    assert found >= least
    if batch % reference == 0:
        assert found == least
    if batch <= reference:
        assert longer == spec


def test_the_schedule_is_the_same_in_updates() -> None:
    """Regime adaptation: rates by update are those of the reference batch, scaled."""
    decay = Decay(kind="multistep", at=("40%", "8ep", "85%", "410ex"), factor=0.5)
    warmup = (("warmup", (("duration", "2ep"), ("shape", "linear"))),)

    def rates(batch_size: int) -> list[float]:
        spec = small_spec(
            batch_size=batch_size, budget="11ep", decay=decay, techniques=warmup, lr=0.1
        )
        return learning_rates(LongerTraining(reference_batch_size=10).applied(spec), 40)

    assert rates(20) == rates(10)
    assert rates(40) == rates(10)


def test_what_is_multiplied() -> None:
    large, small = arm(
        "longer-training = { reference_batch_size = 16 }\n"
        'warmup = { duration = "2ep" }\nbatch-growth = { most = 1024 }'
    )
    assert (large.budget, small.budget) == ("40ep", "10ep")
    assert dict(large.techniques)["warmup"] == (("duration", "8ep"),)
    assert dict(dict(large.techniques)["batch-growth"])["at"] == ("40%", "32ep")
    assert dict(dict(small.techniques)["batch-growth"])["at"] == ("40%", "8ep")
    assert dict(small.techniques)["warmup"] == (("duration", "2ep"),)
    (capped, _) = arm("longer-training = { reference_batch_size = 16, most = 3 }")
    assert (capped.budget, capped.decay.at) == ("30ep", ("40%", "24ep"))
    assert "longer-training" not in dict(capped.techniques)  # a trial is its own numbers


def test_updates_stay_updates() -> None:
    spec = small_spec(batch_size=20, decay=Decay(kind="multistep", at=("5up",), factor=0.1))
    longer = LongerTraining(reference_batch_size=10).applied(spec)
    assert (longer.budget, longer.decay.at) == ("6ep", ("5up",))


def test_one_trial_from_end_to_end() -> None:
    plain = small_spec(batch_size=20)
    longer = LongerTraining(reference_batch_size=10).applied(plain)
    one, other = (run([spec], small_data()).records[0] for spec in (plain, longer))
    assert (one.updates, other.updates) == (6, 12)
    assert other.curves.train_loss[:3] == one.curves.train_loss
    assert other.accuracy is not None


REFUSED = {
    "no batch size": ("{}", "", "reference_batch_size is missing"),
    "zero": ("{ reference_batch_size = 0 }", ".reference_batch_size", "at least 1"),
    "most": ("{ reference_batch_size = 8, most = 1 }", ".most", "at least 2"),
    "nothing longer": (
        "{ reference_batch_size = 64 }", "", "changes nothing: the trials are the same",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_by_its_key(case: str) -> None:
    options, key, message = REFUSED[case]
    with pytest.raises(UsageError) as caught:
        arm(f"longer-training = {options}")
    place = re.escape("arms.long.longer-training" + key)
    assert re.match(r"<?[^:]*:\d+: " + place, str(caught.value))
    assert message in str(caught.value)
    assert isinstance(caught.value, NoEffect) == (case == "nothing longer")


def test_a_budget_in_updates_has_no_effect() -> None:
    with pytest.raises(NoEffect, match="a budget of 200up has as many updates at every batch"):
        LongerTraining(reference_batch_size=8).applied(small_spec(budget="200up"))
