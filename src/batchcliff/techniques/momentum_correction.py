"""Momentum correction: a velocity that has the rate in it follows a change of the rate.

    v = m (lr / last lr) v - lr g;  w = w + v

Without it Keras' form of momentum goes on with the velocity of the former rate for 1/(1 - m)
updates: a ramp then moves less than its rates say, and the first updates after a decay move
more. Source: Goyal et al. 2017 (1706.02677, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import NoEffect
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings
from batchcliff.techniques.update_rules import USES


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentumCorrection:
    """Momentum correction for SGD, LARS and LARC in the keras form; no options.

    No effect in the torch form, without momentum, or at a constant rate.
    """

    seam: ClassVar[str] = "optimizer"
    part: ClassVar[str] = "momentum correction"

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with the correction. NoEffect if its rule has no such velocity."""
        if "momentum" not in USES[spec.settings.optimizer.name]:
            name = spec.settings.optimizer.name
            raise NoEffect(f"momentum-correction: {name} has no velocity with the rate in it.")
        return with_settings(spec, optimizer={"momentum_correction": True})
