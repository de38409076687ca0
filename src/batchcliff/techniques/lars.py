"""LARS: every layer's step in proportion to the layer's weights.

    ratio = trust |w| / (|g| + wd |w| + eps);  g' = ratio (g + wd w);  SGD with momentum on g'

Source: You, Gitman and Ginsburg 2017 (1708.03888). The arithmetic: batchcliff.optimizers.lars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from batchcliff.errors import UsageError
from batchcliff.spec import EXCLUDE, TrialSpec
from batchcliff.techniques.update_rules import PART, with_rule


def check_exclude(name: str, exclude: str) -> None:
    """UsageError for an unknown rule of exclusion."""
    if exclude not in EXCLUDE:
        known = " or ".join(repr(choice) for choice in EXCLUDE)
        raise UsageError(f"{name}.exclude: {exclude!r} is none. Write {known}.")


def check_above_zero(name: str, **values: float) -> None:
    """UsageError for the first value that is not above 0."""
    for key, value in values.items():
        if not value > 0:
            raise UsageError(f"{name}.{key}: {value!r} is not above 0.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Lars:
    """LARS as an arm's update rule; momentum, form, decay and clipping stay as they are.

    Args:
        exclude: parameters without ratio and decay: "norms-and-biases" or "nothing". There is
            no default: packages differ in it, and it decides what a rate means.
        trust: the coefficient. eps: added to the denominator.
        denominator: "separate", as above, or "joint", |g + wd w| + eps.
    """

    seam: ClassVar[str] = "optimizer"
    part: ClassVar[str] = PART

    exclude: str
    trust: float = 0.001
    eps: float = 1e-8
    denominator: Literal["separate", "joint"] = "separate"

    def __post_init__(self) -> None:
        _check("lars", self.exclude, self.trust, self.eps, self.denominator)

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with this rule."""
        return with_rule(
            spec,
            "lars",
            exclude=self.exclude,
            trust=self.trust,
            eps=self.eps,
            denominator=self.denominator,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Larc:
    """LARC, which only lowers the rate: a layer moves at min(lr, ratio).

    Source: NVIDIA apex, `apex.parallel.LARC`, whose default coefficient this has; see `Lars`
    for the options. Unlike LARS it has rates of SGD's size.
    """

    seam: ClassVar[str] = "optimizer"
    part: ClassVar[str] = PART

    exclude: str
    trust: float = 0.02
    eps: float = 1e-8
    denominator: Literal["separate", "joint"] = "separate"

    def __post_init__(self) -> None:
        _check("larc", self.exclude, self.trust, self.eps, self.denominator)

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with this rule."""
        return with_rule(
            spec,
            "larc",
            exclude=self.exclude,
            trust=self.trust,
            eps=self.eps,
            denominator=self.denominator,
        )


def _check(name: str, exclude: str, trust: float, eps: float, denominator: str) -> None:
    check_exclude(name, exclude)
    check_above_zero(name, trust=trust)
    if not eps >= 0:
        raise UsageError(f"{name}.eps: {eps!r} is not a number >= 0.")
    if denominator not in ("separate", "joint"):
        raise UsageError(
            f"{name}.denominator: {denominator!r} is none. Write 'separate' or 'joint'."
        )
