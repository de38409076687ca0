"""Techniques of the optimizer seam: what they make of a trial, what is refused, training."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import pytest
from digit_trials import digits, trained

from batchcliff.errors import Infeasible, NoEffect, UsageError
from batchcliff.planning import plan
from batchcliff.record import Outcome, TrialRecord
from batchcliff.spec import Optimizer, TrialSpec
from batchcliff.study.grid import trials
from batchcliff.study.jobs import stackable
from batchcliff.studyfile import parse_study
from batchcliff.training.arithmetic import ledger

STUDY = """
name = "s"
workload = "digits"
batch_sizes = [128, 256]
seeds = 1
budget = "2ep"
lr = {{ base = 0.05, base_batch_size = 128, scaling = "linear" }}
{settings}
[arms.none]
[arms.other]
{arm}
"""
EXCLUDE = 'exclude = "norms-and-biases"'


def arm(text: str, settings: str = "") -> list[TrialSpec]:
    """The trials of the arm, the largest batch first."""
    study = parse_study(STUDY.format(arm=text, settings=settings))
    return [spec for spec in trials(study, "d" * 64) if spec.arm == "other"]


def optimizer(text: str, settings: str = "") -> Optimizer:
    return arm(text, settings)[0].settings.optimizer


DECAY = "settings = { optimizer = { weight_decay = 0.1 } }"
JOINT = """
weight-decay = { weight_decay = 1e-4 }
lars = { exclude = "nothing", trust = 0.01, eps = 0, denominator = "joint" }"""
ALL = """
radam = {}
gradient-clipping = { max_norm = 1 }
weight-decay = { weight_decay = 0.1 }
no-decay = {}"""
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "lars": (
        f"lars = {{ {EXCLUDE} }}",
        {"name": "lars", "exclude": "norms-and-biases"},
    ),
    "lars joint": (
        JOINT,
        {
            "name": "lars",
            "exclude": "nothing",
            "trust": 0.01,
            "eps": 0,
            "denominator": "joint",
            "weight_decay": 1e-4,
        },
    ),
    "larc": (
        f"larc = {{ {EXCLUDE} }}",
        {"name": "larc", "trust": 0.02, "exclude": "norms-and-biases"},
    ),
    "lamb": (
        f"lamb = {{ {EXCLUDE}, betas = [0.9, 0.99] }}",
        {"name": "lamb", "betas": (0.9, 0.99), "eps": 1e-6, "exclude": "norms-and-biases"},
    ),
    "gi-adam": ("gi-adam = { betas = [0, 0.99] }", {"name": "gi-adam", "betas": (0, 0.99)}),
    "radam": ("radam = { eps = 1e-6 }", {"name": "radam", "eps": 1e-6}),
    "clipping": ("gradient-clipping = { max_norm = 5 }", {"clip_norm": 5}),
    "nesterov": ("nesterov = { momentum = 0.8 }", {"nesterov": True, "momentum": 0.8}),
    "correction": ("momentum-correction = {}", {"momentum_correction": True}),
    "decay": ("weight-decay = { weight_decay = 5e-4 }", {"weight_decay": 5e-4}),
    "no decay": (
        "weight-decay = { weight_decay = 5e-4 }\nno-decay = {}",
        {"weight_decay": 5e-4, "exclude": "norms-and-biases"},
    ),
    "rule and additions": (  # in any order of names: the rule comes first
        ALL,
        {
            "name": "radam",
            "clip_norm": 1,
            "weight_decay": 0.1,
            "exclude": "norms-and-biases",
        },
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_a_technique_is_settings_by_another_name(name: str) -> None:
    text, fields = SETS[name]
    assert optimizer(text) == Optimizer(**fields)
    values = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    written = ", ".join(
        f"{key} = {str(v).lower() if v is True else repr(v)}" for key, v in values.items()
    )
    spelled = arm(f"optimizer = {{ {written} }}")
    assert [s.trial_id for s in arm(text)] == [s.trial_id for s in spelled]
    assert arm(text)[0].techniques == ()


def test_what_the_new_rule_has_no_use_for_goes_back_to_its_default() -> None:
    sgd = "settings = { optimizer = { nesterov = true, momentum = 0.8, weight_decay = 0.1 } }"
    assert optimizer("radam = {}", sgd) == Optimizer(name="radam", weight_decay=0.1)
    kept = optimizer(f"lars = {{ {EXCLUDE} }}", sgd)
    assert (kept.nesterov, kept.momentum, kept.weight_decay) == (True, 0.8, 0.1)


REFUSED: dict[str, tuple[str, str, type[Exception], str]] = {
    "no exclusion": ("lars = {}", "", UsageError, "lars = {}: exclude is missing."),
    "no exclusion, larc": ("larc = { trust = 0.1 }", "", UsageError, "exclude is missing."),
    "no exclusion, lamb": ("lamb = {}", "", UsageError, "lamb = {}: exclude is missing."),
    "no exclusion in an arm's settings": (
        'optimizer = { name = "lars" }',
        "",
        UsageError,
        'arms.other.optimizer.name = "lars": needs a rule of exclusion, which has no default',
    ),
    "no exclusion in the settings": (
        "gradient-clipping = { max_norm = 1 }",
        'settings = { optimizer = { name = "lamb" } }',
        UsageError,
        'settings.optimizer.name = "lamb": needs a rule of exclusion',
    ),
    "exclusion": (
        'lars = { exclude = "bias" }',
        "",
        UsageError,
        "exclude = \"bias\": 'bias' is none. Write 'nothing' or 'norms-and-biases'.",
    ),
    "trust": (f"lars = {{ {EXCLUDE}, trust = 0 }}", "", UsageError, "is not above 0."),
    "eps": (f"lamb = {{ {EXCLUDE}, eps = 0 }}", "", UsageError, "is not above 0."),
    "betas": ("gi-adam = { betas = [0.9] }", "", UsageError, "gi-adam.betas"),
    "one beta": ("gi-adam = { betas = [0.9, 1] }", "", UsageError, "from 0 to below 1."),
    "beta of radam": ("radam = { betas = [0.9, 0.5] }", "", UsageError, "is below 0.7, where"),
    "denominator": (
        f'lars = {{ {EXCLUDE}, denominator = "both" }}',
        "",
        UsageError,
        "denominator",
    ),
    "idle denominator": (
        f'lars = {{ {EXCLUDE}, denominator = "joint" }}',
        "",
        NoEffect,
        "optimizer.denominator changes nothing without weight decay: both forms are |g| then.",
    ),
    "two rules": (
        f"radam = {{}}\nlars = {{ {EXCLUDE} }}",
        "",
        UsageError,
        "techniques 'radam' and 'lars' both fill the seam 'optimizer' (update rule)",
    ),
    "correction of the torch form": (
        "momentum-correction = {}",
        'settings = { optimizer = { form = "torch" } }',
        NoEffect,
        'momentum_correction changes nothing with form = "torch"',
    ),
    "correction without momentum": (
        "momentum-correction = {}",
        "settings = { optimizer = { momentum = 0 } }",
        NoEffect,
        "momentum_correction changes nothing with momentum = 0.",
    ),
    "correction of a constant rate": (
        "momentum-correction = {}",
        'decay = { kind = "constant" }',
        NoEffect,
        "momentum_correction changes nothing while the rate is constant, and this arm has",
    ),
    "correction of adam": (
        "radam = {}\nmomentum-correction = {}",
        "",
        NoEffect,
        "momentum-correction: radam has no velocity with the rate in it.",
    ),
    "nesterov without momentum": (
        "nesterov = {}",
        "settings = { optimizer = { momentum = 0 } }",
        NoEffect,
        "nesterov: without momentum it changes nothing. Write momentum = 0.9.",
    ),
    "nesterov of zero": ("nesterov = { momentum = 0 }", "", UsageError, "Write e.g. 0.9."),
    "nesterov of adam": ("gi-adam = {}\nnesterov = {}", "", NoEffect, "has no momentum of"),
    "nesterov twice": (
        "nesterov = {}",
        "settings = { optimizer = { nesterov = true } }",
        NoEffect,
        "changes nothing: the trials are the same without it",
    ),
    "no decay without decay": (
        "no-decay = {}",
        "",
        NoEffect,
        "optimizer.exclude changes nothing: sgd has no weight decay here.",
    ),
    "no decay of lars": (
        f"lars = {{ {EXCLUDE} }}\nno-decay = {{}}",
        "",
        NoEffect,
        "no-decay: lars has its own option exclude, which says this.",
    ),
    "decay of zero": (
        "weight-decay = { weight_decay = 0 }",
        "",
        NoEffect,
        "weight-decay: 0, and the study has none.",
    ),
    "decay below zero": ("weight-decay = { weight_decay = -1 }", "", UsageError, ">= 0."),
    "clipping at zero": (
        "gradient-clipping = { max_norm = 0 }",
        "",
        NoEffect,
        "gradient-clipping: 0, and the study does not clip.",
    ),
    "clipping without a norm": (
        "gradient-clipping = {}",
        "",
        UsageError,
        "max_norm is missing",
    ),
    "a field of no use": (
        'optimizer = { name = "adam", momentum = 0.8 }',
        "",
        UsageError,
        "momentum = 0.8 adam has no momentum. Leave it at 0.9.",
    ),
    "eps of zero": (
        'optimizer = { name = "adamw", eps = 0 }',
        "",
        UsageError,
        "eps = 0.0 divides by zero wherever a gradient is 0.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_names_its_line(case: str) -> None:
    text, settings, kind, words = REFUSED[case]
    with pytest.raises(kind, match=re.escape(words)) as caught:
        arm(text, settings)
    assert str(caught.value).startswith("study file:")


def test_zero_turns_off_what_the_study_has() -> None:
    clips = "settings = { optimizer = { clip_norm = 5.0, weight_decay = 0.1 } }"
    assert optimizer("gradient-clipping = { max_norm = 0 }", clips).clip_norm == 0
    assert optimizer("weight-decay = { weight_decay = 0 }", clips).weight_decay == 0


def test_momentum_correction_needs_a_rate_that_changes_somewhere() -> None:
    """Also where the arm's warmup does nothing at one of the batch sizes."""
    constant = 'decay = { kind = "constant" }'
    warmup = 'warmup = { duration = "1ep" }\nmomentum-correction = {}'
    assert all(spec.settings.optimizer.momentum_correction for spec in arm(warmup, constant))


# malladi -----------------------------------------------------------------------------------


def malladi(text: str, base: int = 128) -> list[TrialSpec]:
    rate = f'lr = {{ base = 0.001, base_batch_size = {base}, scaling = "malladi" }}'
    return arm(f"{text}\n{rate}")


def test_malladi_scales_betas_and_eps_with_the_batch() -> None:
    """1 - beta doubles and eps falls by sqrt 2 at twice the batch; lr grows by sqrt 2."""
    large, base = malladi("gi-adam = { betas = [0.9, 0.99] }")
    assert (base.lr, base.settings.optimizer.betas) == (0.001, (0.9, 0.99))
    assert large.lr == pytest.approx(0.001 * math.sqrt(2), rel=1e-12)
    assert large.settings.optimizer.betas == (0.8, 0.98)
    assert large.settings.optimizer.eps == pytest.approx(1e-8 / math.sqrt(2), rel=1e-12)
    named = malladi('optimizer = { name = "adamw" }')
    assert named[0].settings.optimizer.betas == (0.8, 0.998)


def test_malladi_makes_a_trial_infeasible_that_needs_a_negative_beta() -> None:
    """At 16 times the batch 1 - beta1 would be 1.6; the base size of the study can run."""
    large, small = malladi("radam = {}", base=16)
    assert small.settings.optimizer.betas[0] == pytest.approx(0.2)
    ledger(small, digits()[1])
    with pytest.raises(Infeasible, match=r"malladi scaling gives a beta of -0\.6, below 0"):
        ledger(large, digits()[1])
    rate = 'lr = { base = 0.001, base_batch_size = 16, scaling = "malladi" }'
    study = parse_study(STUDY.format(arm=f"radam = {{}}\n{rate}", settings=""))
    planned = plan(study).trials
    text = "0.00282843 = 0.001 x sqrt(128/16) (malladi), betas 0.2 and 0.992"
    assert text in {t.lr_provenance for t in planned}
    assert [t.spec.batch_size for t in planned if t.infeasible] == [256]


@pytest.mark.parametrize(
    ("text", "name"), [("nesterov = {}", "sgd"), (f"lamb = {{ {EXCLUDE} }}", "lamb")]
)
def test_malladi_is_refused_for_what_is_no_adam(text: str, name: str) -> None:
    words = (
        "arms.other.lr.scaling = \"malladi\": is a rule for Adam, and arm 'other' trains with "
        f'{name}. Write "sqrt", or give the arm an lr of its own.'
    )
    with pytest.raises(UsageError, match=re.escape(words)):
        malladi(text)


# training ----------------------------------------------------------------------------------


@functools.cache
def trained_arm(text: str) -> TrialRecord:
    """The record of the arm at batch 128, 16 updates on digits; of "" the plain trial."""
    spec = arm(text or "momentum-correction = {}")[1]
    if not text:
        spec = trials(parse_study(STUDY.format(arm="nesterov = {}", settings="")), "d" * 64)[2]
        assert (spec.arm, spec.batch_size) == ("none", 128)
    return trained(spec)


TRAINED = {
    "lars": f"lars = {{ {EXCLUDE}, trust = 0.02 }}\nlr = {{ base = 0.5 }}",
    "larc": f"larc = {{ {EXCLUDE} }}",
    "lamb": f'lamb = {{ {EXCLUDE} }}\nlr = {{ base = 0.02, scaling = "none" }}',
    "gi-adam": 'gi-adam = {}\nlr = { base = 0.01, scaling = "none" }',
    "radam": 'radam = {}\nlr = { base = 0.01, scaling = "none" }',
    "gradient-clipping": "gradient-clipping = { max_norm = 0.2 }",
    "momentum-correction": "momentum-correction = {}",
    "nesterov": "nesterov = {}",
    "weight-decay": "weight-decay = { weight_decay = 0.01 }",
    "no-decay": "weight-decay = { weight_decay = 0.01 }\nno-decay = {}",
}


@pytest.mark.parametrize("name", TRAINED)
def test_it_trains_and_is_another_trial(name: str) -> None:
    plain = "weight-decay" if name == "no-decay" else ""
    one, other = trained_arm(TRAINED[name]), trained_arm(TRAINED.get(plain, ""))
    assert one.outcome is Outcome.OK
    assert one.curves.train_loss[-1] < 2.3  # ln 10: chance
    assert one.test_loss is not None
    assert math.isfinite(one.test_loss)
    assert one.curves.train_loss != other.curves.train_loss
    assert one.trial_id != other.trial_id


def test_only_what_knows_stacks_is_stacked() -> None:
    """A norm over all of a stack's tensors would mix its trials' bits."""
    alone = {"lars", "larc", "lamb", "gi-adam", "radam", "gradient-clipping"}
    for name, text in TRAINED.items():
        stacked = stackable(arm(text)[0])
        assert not (stacked and name in alone), name
    assert stackable(arm("nesterov = {}")[0])
