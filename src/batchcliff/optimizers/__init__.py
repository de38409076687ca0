"""Rules of an update, by name: one file per family, each with its formula and source.

`rule(options, parameters, stack)` is what the engine uses: a function of fixed tensors that
a captured graph can replay. `Lars`, `Larc` and `Lamb` are torch optimizers around the same
functions, for anybody's own training code.
"""

from __future__ import annotations

from torch import Tensor

from batchcliff.errors import UsageError, did_you_mean
from batchcliff.optimizers.adam import AdamRule
from batchcliff.optimizers.lamb import LambRule
from batchcliff.optimizers.lars import LarsRule
from batchcliff.optimizers.public import Lamb, Larc, Lars
from batchcliff.optimizers.rule import Rule
from batchcliff.optimizers.sgd import Sgd
from batchcliff.spec import Optimizer

__all__ = ["RULES", "Lamb", "Larc", "Lars", "Rule", "rule"]

RULES: dict[str, type[Rule]] = {
    "adam": AdamRule,
    "adamw": AdamRule,
    "gi-adam": AdamRule,
    "lamb": LambRule,
    "larc": LarsRule,
    "lars": LarsRule,
    "radam": AdamRule,
    "sgd": Sgd,
}


def rule(options: Optimizer, parameters: list[Tensor], stack: int) -> Rule:
    """The rule that `options` names, with its state; UsageError for an unknown name.

    `parameters`: every tensor's first dimension holds `stack` networks in turn.
    """
    if options.name not in RULES:
        raise UsageError(
            f"optimizer.name: unknown {options.name!r}.{did_you_mean(options.name, RULES)}"
        )
    return RULES[options.name](options, parameters, stack)
