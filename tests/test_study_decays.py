"""The kinds of decay in a study file: to the rate of every update, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from small_trials import run, small_data, small_spec

from batchcliff.errors import Infeasible, UsageError
from batchcliff.schedules import Clock, Warmup, factors
from batchcliff.schedules.curves import one_cycle
from batchcliff.schedules.decays import DECAYS
from batchcliff.spec import Decay, TrialSpec
from batchcliff.study.grid import trials
from batchcliff.studyfile import load_study, parse_study
from batchcliff.training.arithmetic import learning_rates

GOOD = """\
name = "decays"
workload = "digits"
batch_sizes = [64]
seeds = 1
budget = "8ep"
lr = { base = 0.5, base_batch_size = 64 }
decay = { kind = "constant" }

[arms.none]

[arms.warmup]
warmup = { duration = "2ep" }
"""
UPDATES, WARM = 128, 32  # 1,024 examples are 16 updates an epoch


def study(decay: str, text: str = GOOD) -> str:
    return text.replace('decay = { kind = "constant" }', f"decay = {decay}")


def specs(text: str) -> dict[str, TrialSpec]:
    return {spec.arm: spec for spec in trials(parse_study(text), "")}


def rates(text: str) -> dict[str, list[float]]:
    return {arm: learning_rates(spec, 1024) for arm, spec in specs(text).items()}


T, REST = UPDATES, UPDATES - WARM
# decay -> the factor of update t of arm none, and of arm warmup after its warmup, t from 0
FORMULAS: dict[str, tuple[str, Any, Any]] = {
    "constant": ("{ kind = 'constant' }", lambda t: 1.0, lambda t: 1.0),
    "linear": (
        "{ kind = 'linear', floor = 0.2 }",
        lambda t: 1 - 0.8 * t / T,
        lambda t: 1 - 0.8 * t / REST,
    ),
    "exponential": (
        "{ kind = 'exponential', floor = 0.01 }",
        lambda t: 0.01 ** (t / T),
        lambda t: 0.01 ** (t / REST),
    ),
    "cosine": (
        "{ kind = 'cosine' }",
        lambda t: (1 + math.cos(math.pi * t / T)) / 2,
        lambda t: (1 + math.cos(math.pi * t / REST)) / 2,
    ),
    "polynomial": (
        "{ kind = 'polynomial', power = 2, floor = 0.1 }",
        lambda t: 0.1 + 0.9 * (1 - t / T) ** 2,
        lambda t: 0.1 + 0.9 * (1 - t / REST) ** 2,
    ),
    "multistep": (
        "{ kind = 'multistep', at = ['50%', '6ep'], factor = 0.5 }",
        lambda t: 1.0 if t < 64 else 0.5 if t < 96 else 0.25,
        lambda t: 1.0 if t < 32 else 0.5 if t < 64 else 0.25,
    ),
    "inverse-sqrt": (
        "{ kind = 'inverse-sqrt', timescale = '25%' }",
        lambda t: 1.0 if t < 32 else math.sqrt(32 / (t + 1)),
        lambda t: math.sqrt(32 / (t + WARM + 1)),
    ),
    "warmup-stable-decay": (
        "{ kind = 'warmup-stable-decay', duration = '2ep', floor = 0.25 }",
        lambda t: 1.0 if t < 96 else 1 - 0.75 * (t - 96) / 32,
        lambda t: 1.0 if t < 64 else 1 - 0.75 * (t - 64) / 32,
    ),
}


@pytest.mark.parametrize("kind", sorted(FORMULAS))
def test_golden_from_the_study_file_to_the_rate_of_every_update(kind: str) -> None:
    text, none, after = FORMULAS[kind]
    found = rates(study(text))
    assert found["none"] == pytest.approx([0.5 * none(t) for t in range(UPDATES)])
    rise = [0.5 * (t + 1) / WARM for t in range(WARM)]
    assert found["warmup"] == pytest.approx([*rise, *(0.5 * after(t) for t in range(REST))])


def test_golden_one_cycle_is_of_arms_without_a_warmup() -> None:
    alone = GOOD[: GOOD.index("[arms.warmup]")]
    found = rates(study("{ kind = 'one-cycle', rise = 0.25, start = 0.1, end = 0.01 }", alone))
    assert found["none"] == [0.5 * one_cycle(t, T, 0.25, 0.1, 0.01) for t in range(T)]
    assert found["none"][31] == 0.5
    assert found["none"][127] == pytest.approx(0.005)


def test_there_is_a_golden_table_for_every_kind() -> None:
    assert DECAYS.keys() == FORMULAS.keys() | {"one-cycle"}


def test_the_timescale_is_the_warmups_where_none_is_given() -> None:
    text = study("{ kind = 'inverse-sqrt' }", GOOD.replace("[arms.none]\n", ""))
    clock = Clock(1024, 64).with_budget("8ep")
    decay = specs(text)["warmup"].decay
    assert rates(text)["warmup"] == [
        0.5 * factor for factor in factors(clock, Warmup(duration="2ep"), decay)
    ]
    assert rates(text)["warmup"][127] == pytest.approx(0.5 * math.sqrt(32 / 128))


def test_an_arm_has_a_decay_of_its_own() -> None:
    text = GOOD + "decay = { kind = 'linear', floor = 0.5 }\n"
    found = rates(text)
    assert found["none"] == [0.5] * UPDATES
    assert found["warmup"][-1] == pytest.approx(0.5 * (1 - 0.5 * 95 / 96))


def test_longer_training_stretches_the_lengths_of_a_decay() -> None:
    arm = "longer-training = { reference_batch_size = 32 }\n"
    for option, kind in (("duration", "warmup-stable-decay"), ("timescale", "inverse-sqrt")):
        for given, longer in (("2ep", "4ep"), ("25%", "25%"), ("9up", "9up")):
            text = study(f"{{ kind = '{kind}', {option} = '{given}' }}", GOOD + arm)
            stretched = specs(text)["warmup"]
            assert getattr(stretched.decay, option) == longer
            assert getattr(specs(text)["none"].decay, option) == given
            assert stretched.budget == "16ep"


def test_an_option_at_its_default_is_no_part_of_an_id() -> None:
    (plain, said) = (
        specs(study(decay))["none"].trial_id
        for decay in ("{ kind = 'linear' }", "{ kind = 'linear', floor = 0.0 }")
    )
    assert plain == said
    assert plain != specs(study("{ kind = 'linear', floor = 0.1 }"))["none"].trial_id


def test_one_cycle_of_a_run_too_short_for_it_is_infeasible() -> None:
    text = study("{ kind = 'one-cycle', rise = 0.005 }", GOOD[: GOOD.index("[arms.warmup]")])
    with pytest.raises(Infeasible, match="no update before the peak"):
        rates(text)


def test_a_fall_that_leaves_no_room_for_the_warmup_is_infeasible() -> None:
    with pytest.raises(Infeasible, match=r"warmup of 32 and decay of 112 updates \('7ep'\)"):
        rates(study("{ kind = 'warmup-stable-decay', duration = '7ep' }"))


def test_trials_train_by_them() -> None:
    decays = (
        Decay(kind="constant"),
        Decay(kind="one-cycle"),
        Decay(kind="warmup-stable-decay", duration="50%"),
    )
    specs = [small_spec(decay=decay, budget="4ep") for decay in decays]
    flat, cycle, stable = (run([spec], small_data()).records[0] for spec in specs)
    losses = [record.curves.train_loss for record in (flat, cycle, stable)]
    assert all(math.isfinite(loss) for curve in losses for loss in curve)
    assert losses[2][:2] == losses[0][:2]  # it has not begun to fall
    assert losses[2][3] != losses[0][3]
    assert losses[1][1] != losses[0][1]


BAD = {
    "kind": ("{ kind = 'linaer' }", 'decay.kind = "linaer"', "Did you mean 'linear'?"),
    "foreign option": (
        "{ kind = 'linear', power = 2.0 }", "decay.power = 2.0", 'kind = "polynomial"',
    ),
    "end": ("{ kind = 'linear', end = 0.1 }", "decay.end = 0.1", 'kind = "one-cycle"'),
    "typo": ("{ kind = 'linear', flor = 0.1 }", "decay.flor = 0.1", "Did you mean 'floor'?"),
    "floor of 1": ("{ kind = 'linear', floor = 1.0 }", "decay.floor = 1.0", "below 1"),
    "no floor": ("{ kind = 'exponential' }", "decay.floor", "Write e.g. floor = 0.01"),
    "floor of 0": ("{ kind = 'exponential', floor = 0.0 }", "decay.floor = 0.0", "missing key"),
    "no duration": (
        "{ kind = 'warmup-stable-decay' }", "decay.duration", 'Write e.g. duration = "20%"',
    ),
    "no unit": (
        "{ kind = 'warmup-stable-decay', duration = '20' }", 'decay.duration = "20"', "'20ep'",
    ),
    "duration as number": (
        "{ kind = 'warmup-stable-decay', duration = 20 }", "decay.duration = 20", "in quotes",
    ),
    "duration of nothing": (
        "{ kind = 'warmup-stable-decay', duration = '0up' }", 'decay.duration = "0up"',
        "is no length",
    ),
    "duration past the run": (
        "{ kind = 'warmup-stable-decay', duration = '9ep' }", 'decay.duration = "9ep"',
        "not end inside of the run of 8ep",
    ),
    "timescale of the run": (
        "{ kind = 'inverse-sqrt', timescale = '8ep' }", 'decay.timescale = "8ep"',
        "not end inside of the run of 8ep",
    ),
    "no timescale": ("{ kind = 'inverse-sqrt' }", "decay.timescale", "arm 'none' has no"),
    "rise of 1": ("{ kind = 'one-cycle', rise = 1.0 }", "decay.rise = 1.0", "between 0 and 1"),
    "start above 1": ("{ kind = 'one-cycle', start = 25.0 }", "decay.start = 25.0", "below 1"),
    "end NaN": ("{ kind = 'one-cycle', end = nan }", "decay.end = nan", "from 0 to below 1"),
}  # fmt: skip


def refusal(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "study.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_study("study.toml")
    return str(caught.value)


@pytest.mark.parametrize("case", BAD)
def test_bad_decays_are_refused_with_file_line_and_key(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decay, key, way_out = BAD[case]
    message = refusal(study(decay), tmp_path, monkeypatch)
    assert message.startswith(f"study.toml:7: {key}: ")
    assert way_out in message
    assert "\n" not in message


def test_bad_decays_of_an_arm_are_refused_at_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = GOOD + "decay = { kind = 'inverse-sqrt', timescale = '8ep' }\n"
    message = refusal(bad, tmp_path, monkeypatch)
    assert message.startswith('study.toml:13: arms.warmup.decay.timescale = "8ep": ')
    bad = GOOD.replace("[arms.none]\n", "[arms.none]\ndecay = { kind = 'inverse-sqrt' }\n")
    message = refusal(bad, tmp_path, monkeypatch)
    assert message.startswith("study.toml:10: arms.none.decay.timescale: missing key")


def test_one_cycle_with_a_warmup_is_refused_at_the_warmup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = refusal(study("{ kind = 'one-cycle' }"), tmp_path, monkeypatch)
    assert message.startswith("study.toml:12: arms.warmup.warmup: ")
    assert "rise" in message
    own = GOOD + "decay = { kind = 'one-cycle' }\n"
    message = refusal(own, tmp_path, monkeypatch)
    assert message.startswith("study.toml:12: arms.warmup.warmup: ")


def test_the_command_line_takes_them_too() -> None:
    linear = parse_study(GOOD, overrides=["decay.kind=linear", "decay.floor=0.5"])
    assert (linear.decay.kind, linear.decay.floor) == ("linear", 0.5)
    with pytest.raises(
        UsageError, match=r"--set decay\.power=2: decay\.power = 2\.0: a linear"
    ):
        parse_study(GOOD, overrides=["decay.kind=linear", "decay.power=2"])
