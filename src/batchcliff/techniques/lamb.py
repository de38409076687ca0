"""LAMB: Adam's direction, scaled in every layer to the norm of the layer's weights.

    r = m' / (sqrt(v') + eps) + wd w;  w = w - lr (|w| / |r|) r

Source: You et al. 2020 (1904.00962, algorithm 2). The arithmetic: batchcliff.optimizers.lamb.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.spec import TrialSpec
from batchcliff.techniques.adam import check_betas
from batchcliff.techniques.lars import check_above_zero, check_exclude
from batchcliff.techniques.update_rules import PART, with_rule


@dataclass(frozen=True, kw_only=True, slots=True)
class Lamb:
    """LAMB as an arm's update rule; weight decay and clipping stay as they are.

    Args:
        exclude: parameters without ratio and decay: "norms-and-biases" or "nothing". There is
            no default: packages differ in it, and it decides what a rate means.
        betas: decay of the means of the gradient and of its square. eps: in the denominator.
    """

    seam: ClassVar[str] = "optimizer"
    part: ClassVar[str] = PART

    exclude: str
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6

    def __post_init__(self) -> None:
        check_exclude("lamb", self.exclude)
        check_betas("lamb", self.betas)
        check_above_zero("lamb", eps=self.eps)

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with this rule."""
        return with_rule(spec, "lamb", exclude=self.exclude, betas=self.betas, eps=self.eps)
