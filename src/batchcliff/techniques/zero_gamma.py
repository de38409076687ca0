"""Zero gamma: every residual block starts as the identity.

Source: Goyal et al. 2017 (1706.02677, section 5.1): the scale of the last batch norm of each
residual block starts at 0, so that at first the signal passes through the shortcuts only,
"which eases optimization at the start of training".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from batchcliff.errors import NoEffect
from batchcliff.spec import TrialSpec
from batchcliff.techniques.seams import with_settings


@dataclass(frozen=True, kw_only=True, slots=True)
class ZeroGamma:
    """No options."""

    seam: ClassVar[str] = "model"
    part: ClassVar[str] = "initial scales"

    def applied(self, spec: TrialSpec) -> TrialSpec:
        """The trial with these initial scales. NoEffect without residual blocks of ours."""
        name = spec.settings.model.name
        if name != "resnet":
            raise NoEffect(
                f"zero-gamma: the network {name!r} has no residual blocks that it knows. "
                'Write model = { name = "resnet", ... }, or leave it out.'
            )
        return with_settings(spec, model={"zero_gamma": True})
