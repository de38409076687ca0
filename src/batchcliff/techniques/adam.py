"""GI-Adam and RAdam: two variants of Adam that need less warmup, or none.

    gi-adam  v starts at the first squared gradient: early steps are smaller, by sqrt(1 - b2^t)
             at first (Kalra and Barkeshli 2024, 2406.09405)
    radam    steps are adapted only once the variance of the second moment is finite, and then
             by a factor that rises to 1 (Liu et al. 2020, 1908.03265, algorithm 2)

Plain Adam and AdamW are settings: optimizer = { name = "adam" }. The arithmetic:
batchcliff.optimizers.adam.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import UsageError
from batchcliff.spec import TrialSpec
from batchcliff.techniques.lars import check_above_zero
from batchcliff.techniques.update_rules import PART, with_rule


def check_betas(name: str, betas: tuple[float, ...], least_second: float = 0.0) -> None:
    """UsageError unless `betas` are two numbers from 0 to below 1, the second large enough."""
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UsageError(
            f"{name}.betas: {list(betas)!r} is not a pair of numbers from 0 to below 1. Write "
            "e.g. [0.9, 0.999]."
        )
    if betas[1] < least_second:
        raise UsageError(
            f"{name}.betas: {betas[1]!r} is below {least_second}, where no step would ever be "
            "adapted. Write e.g. [0.9, 0.999]."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GiAdam:
    """Adam with its second moment started at the first squared gradient.

    Args:
        betas: decay of the means of the gradient and of its square. eps: in the denominator.

    Weight decay, if the trial has any, is added to the gradient, as in Adam.
    """

    seam: ClassVar[str] = "optimizer"
    part: ClassVar[str] = PART

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_betas("gi-adam", self.betas)
        check_above_zero("gi-adam", eps=self.eps)

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with this rule."""
        return with_rule(spec, "gi-adam", betas=self.betas, eps=self.eps)


@dataclass(frozen=True, kw_only=True, slots=True)
class RAdam:
    """Rectified Adam, with the options of `GiAdam`. rho must be able to pass 5: b2 > 2/3."""

    seam: ClassVar[str] = "optimizer"
    part: ClassVar[str] = PART

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_betas("radam", self.betas, least_second=0.7)
        check_above_zero("radam", eps=self.eps)

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with this rule."""
        return with_rule(spec, "radam", betas=self.betas, eps=self.eps)
