"""Weight decay, and keeping it away from norms and biases.

    weight-decay  g + wd w in SGD, LARS, LARC, Adam, GI-Adam and RAdam (an L2 penalty of
                  wd/2 |w|^2); w (1 - lr wd) in AdamW; added to the direction in LAMB
    no-decay      none on tensors of one dimension: scales and shifts of batch norm, biases

Sources: Goyal et al. 2017 (1706.02677): 1e-4, not on batch norm; Loshchilov and Hutter 2019
(1711.05101) for AdamW.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import NoEffect, UsageError
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings
from batchcliff.techniques.update_rules import LAYERWISE


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightDecay:
    """Weight decay.

    Args:
        weight_decay: wd, per update; 0 turns the study's off.
    """

    seam: ClassVar[str] = "optimizer"
    part: ClassVar[str] = "weight decay"

    weight_decay: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UsageError(
                f"weight-decay.weight_decay: {self.weight_decay!r} is not a number >= 0."
            )

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with this decay. NoEffect for 0 where there is none anyway."""
        if self.weight_decay == spec.settings.optimizer.weight_decay == 0:
            raise NoEffect("weight-decay: 0, and the study has none. Write e.g. 5e-4.")
        return with_settings(spec, optimizer={"weight_decay": self.weight_decay})


@dataclass(frozen=True, kw_only=True, slots=True)
class NoDecay:
    """No weight decay on scales and shifts of normalisation and on biases; no options.

    No effect without weight decay. LARS, LARC and LAMB have an option `exclude` of their own.
    """

    seam: ClassVar[str] = "optimizer"
    part: ClassVar[str] = "exclusion"

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with the exclusion. NoEffect if its rule says itself what it excludes."""
        name = spec.settings.optimizer.name
        if name in LAYERWISE:
            raise NoEffect(f"no-decay: {name} has its own option exclude, which says this.")
        return with_settings(spec, optimizer={"exclude": "norms-and-biases"})
