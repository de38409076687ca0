"""Settings of an arm beside its techniques: what changes nothing is refused, no more."""

from __future__ import annotations

import pytest

from batchcliff.errors import NoEffect
from batchcliff.studyfile import parse_study

STUDY = """\
name = "mine"
workload = "digits"
batch_sizes = [64, 128]
seeds = 1
[arms.none]
[arms.other]
{arm}
"""


def arm_of(text: str) -> dict[str, object]:
    study = parse_study(STUDY.format(arm=text))
    return dict(study.arms[1].settings)


@pytest.mark.parametrize(
    ("arm", "settings"),
    [
        ("radam = {}\noptimizer = { weight_decay = 1e-3 }", {"optimizer.weight_decay": 1e-3}),
        ("radam = {}\nlabel_smoothing = 0.1", {"label_smoothing": 0.1}),
        (
            'optimizer = { name = "lars", exclude = "nothing", trust = 0.002 }',
            {
                "optimizer.name": "lars",
                "optimizer.exclude": "nothing",
                "optimizer.trust": 0.002,
            },
        ),
    ],
)
def test_settings_that_reach_the_trial_stay(arm: str, settings: dict[str, object]) -> None:
    assert arm_of(arm) == settings


@pytest.mark.parametrize(
    ("arm", "key", "beside"),
    [
        ('radam = {}\noptimizer = { name = "adam" }', "optimizer.name", "radam"),
        (
            "radam = {}\noptimizer = { momentum = 0.5 }",
            "optimizer.momentum",
            "radam",
        ),
    ],
)
def test_a_setting_whose_place_is_taken_is_refused(arm: str, key: str, beside: str) -> None:
    with pytest.raises(NoEffect, match=rf"{key}.* changes nothing beside {beside}\. Leave"):
        arm_of(arm)
