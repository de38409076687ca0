"""Techniques by name: what is refused, and with which words."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from batchcliff import techniques as package
from batchcliff.errors import UsageError
from batchcliff.schedules import compose
from batchcliff.spec import Decay, Settings, TrialSpec
from batchcliff.techniques import SEAMS, TECHNIQUES, technique, techniques
from batchcliff.techniques.warmup import Warmup

OPTIONS: dict[str, Any] = {
    "shape": "exponential",
    "start": 0.01,
    "duration": "6ep",
    "stepping": "epoch",
}
KNOWN = ", ".join(sorted(TECHNIQUES))


def test_a_technique_from_its_options() -> None:
    made = technique("warmup", OPTIONS)
    assert made == Warmup(**OPTIONS)
    assert made == technique("warmup", tuple(sorted(OPTIONS.items())))
    assert isinstance(made, compose.Warmup)
    assert made.seam == "rate"


@pytest.mark.parametrize("name", TECHNIQUES)
def test_contract_of_every_technique(name: str) -> None:
    cls = TECHNIQUES[name]
    assert cls.seam in SEAMS
    assert cls.part
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "seam" not in {f.name for f in dataclasses.fields(cls)}
    assert cls.__doc__


REFUSED = {
    "name": (
        "warmpu",
        OPTIONS,
        f"unknown technique 'warmpu'. Did you mean 'warmup'? Known: {KNOWN}.",
    ),
    "far name": ("xyz", {}, f"unknown technique 'xyz'. Known: {KNOWN}."),
    "option": (
        "warmup",
        OPTIONS | {"durations": "1ep"},
        (
            "warmup: unknown option 'durations'. Did you mean 'duration'? Known: duration, "
            "shape, start, start_lr, stepping."
        ),
    ),
    "seam is no option": (
        "warmup",
        OPTIONS | {"seam": "rate"},
        "warmup: unknown option 'seam'. Known: duration, shape, start, start_lr, stepping.",
    ),
    "missing": (
        "warmup",
        {"shape": "linear"},
        (
            'warmup: duration is missing. Write e.g. warmup = { shape = "linear", duration = '
            '"5ep" }.'
        ),
    ),
    "shape": (
        "warmup",
        OPTIONS | {"shape": "lineal"},
        (
            "unknown warmup shape 'lineal'. Did you mean 'linear'? Known: constant, cosine, "
            "exponential, linear."
        ),
    ),
    "start is no number": (
        "warmup",
        OPTIONS | {"start": "a"},
        "warmup.start: 'a' is not a number.",
    ),
    "start is true": (
        "warmup",
        OPTIONS | {"start": True},
        "warmup.start: True is not a number.",
    ),
    "start is a list": (
        "warmup",
        OPTIONS | {"start": [0.1]},
        "warmup.start: [0.1] is not a number.",
    ),
    "shape is a number": (
        "warmup",
        OPTIONS | {"shape": 3},
        "warmup.shape: 3 is not a text.",
    ),
    "shape is a list": (
        "warmup",
        OPTIONS | {"shape": ["linear"]},
        "warmup.shape: ['linear'] is not a text.",
    ),
    "stepping is none": (
        "warmup",
        OPTIONS | {"stepping": None},
        "warmup.stepping: None is not a text.",
    ),
    "duration without a unit": (
        "warmup",
        OPTIONS | {"duration": 2.5},
        "warmup.duration: 2.5 is not a Duration or a text or a whole number.",
    ),
    "start above the peak": (
        "warmup",
        OPTIONS | {"start": 1.5},
        "warmup start = 1.5: write a factor of the peak from 0 to 1, such as 0.01.",
    ),
    "stepping": (
        "warmup",
        OPTIONS | {"stepping": "epochs"},
        "stepping = 'epochs': write 'update' or 'epoch'.",
    ),
    "part of an epoch": (
        "warmup",
        OPTIONS | {"duration": "0.5ep"},
        (
            "warmup of '0.5ep' with stepping = 'epoch': a staircase of epochs needs a whole "
            "number of them. Write '5ep', or stepping = 'update'."
        ),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    name, options, message = REFUSED[case]
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        technique(name, options)


@pytest.mark.parametrize("start", [None, 0.5, 1, 0.0])
def test_numbers_that_are_whole_or_left_out_are_numbers(start: float | None) -> None:
    assert technique("warmup", {"duration": 5, "start": start}).start == start


def test_a_warmup_from_a_learning_rate() -> None:
    """A factor of each trial's own peak; nothing where the peak is no higher."""
    from_base = Warmup(duration="5ep", start_lr=0.1)
    for lr, start in ((0.2, 0.5), (3.2, 0.1 / 3.2)):
        spec = from_base.applied(trial(lr))
        assert spec == Warmup(duration="5ep", start=start).applied(trial(lr))
        assert dict(spec.techniques)["warmup"] == (("duration", "5ep"), ("start", start))
    for lr in (0.1, 0.05):
        assert from_base.applied(trial(lr)) == trial(lr)
    with pytest.raises(UsageError, match="start and start_lr say the same"):
        Warmup(duration="5ep", start=0.1, start_lr=0.1)
    with pytest.raises(UsageError, match=r"warmup.start_lr: -1.0 is no learning rate"):
        Warmup(duration="5ep", start_lr=-1.0)


@pytest.mark.parametrize(
    "options",
    [{"duration": "0ep"}, {"duration": "5%", "start": 1.0}, {"duration": 0, "start_lr": 0.1}],
)
def test_a_warmup_that_is_none_leaves_the_trial_as_it_was(options: dict[str, Any]) -> None:
    assert Warmup(**options).applied(trial(3.2)) == trial(3.2)
    real = options | {"duration": "1up"} if "start" not in options else options | {"start": 0.9}
    assert Warmup(**real).applied(trial(3.2)) != trial(3.2)


def trial(lr: float) -> TrialSpec:
    return TrialSpec(
        workload="article", data="cifar10", data_digest="", arm="a", techniques=(),
        settings=Settings(), batch_size=256, lr=lr, decay=Decay(), budget="90ep", seed=0,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Other:
    """A second warmup."""

    share: float = 0.5
    seam: ClassVar[str] = "rate"
    part: ClassVar[str] = "warmup"


def test_two_techniques_of_one_seam_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(package.TECHNIQUES, "other", Other)  # type: ignore[arg-type]
    warmup = ("warmup", tuple(OPTIONS.items()))
    message = (
        "techniques 'warmup' and 'other' both fill the seam 'rate' (warmup): put them in two "
        "arms."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        techniques((warmup, ("other", ())))
    monkeypatch.setattr(Other, "part", "length")
    built = techniques((warmup, ("other", (("share", 0.25),))))
    assert built == (Warmup(**OPTIONS), Other(share=0.25))


def test_no_technique_is_none() -> None:
    assert techniques(()) == ()


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, batchcliff.techniques, batchcliff.workloads; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
