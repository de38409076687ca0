"""Techniques of the loss, the images and the number format: options, effects, real trials."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import pytest
from digit_trials import trained

from batchcliff.errors import Infeasible, NoEffect, UsageError
from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import Settings, TrialSpec
from batchcliff.study.grid import trials
from batchcliff.study.jobs import stackable
from batchcliff.studyfile import parse_study
from batchcliff.techniques import technique, techniques
from batchcliff.training.arithmetic import DataFacts, ledger
from batchcliff.workloads import OWN_MODEL

STUDY = """\
name = "mine"
workload = "digits"
batch_sizes = [64]
seeds = 1
budget = "3ep"
reference_arm = "none"

[arms.none]
"""
# Technique, its options, the fields of the settings that it sets.
EFFECTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "label-smoothing": ({}, {"label_smoothing": 0.1}),
    "mixup": ({"alpha": 0.4}, {"mixup": 0.4}),
    "cutout": ({"size": 3}, {"cutout": 3}),
    "random-erasing": ({}, {"random_erasing": 0.5}),
    "reestimated-batch-norm": ({}, {"evaluation": "reestimated"}),
    "precision": ({"format": "fp16"}, {"precision": "fp16"}),
}


def toml(options: dict[str, Any]) -> str:
    pairs = (f"{k} = {v!r}".replace("'", '"') for k, v in options.items())
    return f"{{ {', '.join(pairs)} }}"


def arm(name: str, table: str) -> str:
    return f"{STUDY}\n[arms.other]\n{name} = {table}\n"


def other_trial(text: str) -> TrialSpec:
    found = trials(parse_study(text), "0" * 64)
    return next(t for t in found if t.arm == "other")


@functools.cache
def plain_record() -> TrialRecord:
    return trained(trials(parse_study(STUDY), "0" * 64)[0])


@pytest.mark.parametrize("name", EFFECTS)
def test_what_a_technique_sets_and_nothing_else(name: str) -> None:
    options, fields = EFFECTS[name]
    plain = trials(parse_study(STUDY), "0" * 64)[0]
    other = other_trial(arm(name, toml(options)))
    assert other.techniques == ()
    changed = {
        f: getattr(other.settings, f)
        for f in Settings.__dataclass_fields__
        if getattr(other.settings, f) != getattr(plain.settings, f)
    }
    assert changed == fields
    assert other.trial_id != plain.trial_id


@pytest.mark.parametrize("name", EFFECTS)
def test_the_setting_and_the_technique_are_one_trial(name: str) -> None:
    """`mixup = 0.4` is the setting, `mixup = { alpha = 0.4 }` the technique."""
    options, fields = EFFECTS[name]
    ((field, value),) = fields.items()
    setting = other_trial(arm(field, f"{value!r}".replace("'", '"')))
    assert setting.trial_id == other_trial(arm(name, toml(options))).trial_id


@pytest.mark.parametrize("name", EFFECTS)
def test_a_trial_on_real_digits(name: str) -> None:
    """It trains, ends with numbers, and they are not the plain trial's."""
    record, plain = trained(other_trial(arm(name, toml(EFFECTS[name][0])))), plain_record()
    assert record.outcome is Outcome.OK
    assert record.accuracy is not None and 0.1 < record.accuracy <= 1
    assert all(math.isfinite(loss) for loss in record.curves.train_loss)
    same = record.curves.train_loss == plain.curves.train_loss
    assert same == (name == "reestimated-batch-norm")
    assert record.test_loss != plain.test_loss


@pytest.mark.parametrize("name", EFFECTS)
def test_what_changes_nothing_is_refused(name: str) -> None:
    """In a study that has the setting already."""
    options, fields = EFFECTS[name]
    ((field, value),) = fields.items()
    given = f"{value!r}".replace("'", '"')
    text = arm(name, toml(options)).replace(
        "[arms.none]", f"[settings]\n{field} = {given}\n\n[arms.none]"
    )
    with pytest.raises(NoEffect, match=rf"^[^:]*:\d+: arms\.other\.{name} .*changes nothing"):
        parse_study(text)


REFUSED = {
    "smooths nothing": (
        "label-smoothing",
        {"smoothing": 0},
        NoEffect,
        "smooths nothing. Write e.g. 0.1",
    ),
    "smooths all": ("label-smoothing", {"smoothing": 1.0}, UsageError, "above 0 and below 1"),
    "less than none": (
        "label-smoothing",
        {"smoothing": -0.1},
        UsageError,
        "-0.1 is not a share",
    ),
    "not a number": (
        "label-smoothing",
        {"smoothing": math.nan},
        UsageError,
        "nan is not a share",
    ),
    "mixes nothing": ("mixup", {"alpha": 0}, NoEffect, "mixes nothing. Write e.g. 1.0"),
    "alpha below 0": ("mixup", {"alpha": -1}, UsageError, "mixup.alpha: -1 is not a finite"),
    "alpha infinite": ("mixup", {"alpha": math.inf}, UsageError, "inf is not a finite"),
    "cuts nothing": ("cutout", {"size": 0}, NoEffect, "cuts nothing out. Write e.g. 16"),
    "cuts less": (
        "cutout",
        {"size": -4},
        UsageError,
        "cutout.size: -4 is not a number of pixels",
    ),
    "part of a pixel": ("cutout", {"size": 1.5}, UsageError, "cutout.size: 1.5 is not a whole"),
    "erases nothing": ("random-erasing", {"probability": 0.0}, NoEffect, "erases nothing"),
    "more than always": (
        "random-erasing",
        {"probability": 1.1},
        UsageError,
        "1.1 is not above 0",
    ),
    "no format": ("precision", {}, UsageError, "precision: format is missing"),
    "unknown format": ("precision", {"format": "fp61"}, UsageError, "Did you mean 'fp16'"),
    "no options": ("reestimated-batch-norm", {"size": 1}, UsageError, "unknown option 'size'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_options(case: str) -> None:
    name, options, error, text = REFUSED[case]
    with pytest.raises(error, match=text) as caught:
        technique(name, options)
    assert str(caught.value).startswith(name)


def test_the_study_file_says_where() -> None:
    with pytest.raises(UsageError, match=r":11: arms\.other\.mixup\.alpha = -2.*not a finite"):
        parse_study(arm("mixup", "{ alpha = -2 }"))
    with pytest.raises(UsageError, match=r":11: arms\.other\.cutout = \"big\""):
        parse_study(arm("cutout", '"big"'))
    with pytest.raises(
        UsageError, match=r":11: arms\.other\.evaluation = \"runing\".*'running'"
    ):
        parse_study(arm("evaluation", '"runing"'))
    with pytest.raises(
        UsageError, match=r":11: arms\.other\.gradient_norms = 1.*true or false"
    ):
        parse_study(arm("gradient_norms", "1"))


def test_they_can_be_combined() -> None:
    built = techniques(
        tuple((name, tuple(options.items())) for name, (options, _) in EFFECTS.items())
    )
    assert len({(t.seam, t.part) for t in built}) == len(EFFECTS)
    lines = "\n".join(f"{name} = {toml(options)}" for name, (options, _) in EFFECTS.items())
    spec = other_trial(f"{STUDY}\n[arms.other]\n{lines}\n")
    expected = {f: v for _, fields in EFFECTS.values() for f, v in fields.items()}
    assert {f: getattr(spec.settings, f) for f in expected} == expected
    assert trained(spec).outcome is Outcome.OK


SHAPES = {
    "cutout fits": ("cutout", 8, (8, 8, 1), 64, ""),
    "cutout too high": (
        "cutout",
        9,
        (8, 32, 1),
        64,
        "cutout of 9 pixels is larger than the images of 8 x 32",
    ),
    "cutout too wide": ("cutout", 9, (32, 8, 1), 64, "larger than the images of 32 x 8"),
    "erasing fits": ("random_erasing", 0.5, (4, 4, 1), 64, ""),
    "erasing does not": (
        "random_erasing",
        0.5,
        (32, 3, 1),
        64,
        "at least 4 x 4 pixels, not 32 x 3",
    ),
    "mixup of two": ("mixup", 0.2, (8, 8, 1), 2, ""),
    "mixup of one": ("mixup", 0.2, (8, 8, 1), 1, "no other example to mix with"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_what_cannot_run_is_infeasible_before_it_starts(case: str) -> None:
    field, value, shape, batch, reason = SHAPES[case]
    spec = other_trial(arm(field, str(value)))
    # A network of one's own: our batch norm would refuse a single example before.
    own = dataclasses.replace(spec.settings, model=OWN_MODEL)
    spec = dataclasses.replace(spec, settings=own, batch_size=batch)
    facts = DataFacts(num_train=1024, num_test=100, num_classes=10, image_shape=shape)
    if not reason:
        assert ledger(spec, facts).updates > 0
        return
    with pytest.raises(Infeasible, match=reason):
        ledger(spec, facts)


def test_what_may_be_stacked_on_a_cpu() -> None:
    """A shared loss scale, partners and norms are not known to be right for stacks."""
    for name, (options, _) in EFFECTS.items():
        spec = other_trial(arm(name, toml(options)))
        assert stackable(spec) == (name not in ("mixup", "precision")), name
    assert not stackable(other_trial(arm("gradient_norms", "true")))
    assert stackable(other_trial(arm("precision", '"bf16"')))
